"""Answer prompts about images and clips on a web page of this machine.

openpali demo
openpali demo google/paligemma-3b-mix-224 --port 7861
"""

import argparse
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.eval.answering.load_model import load_model
from openpali.eval.predict import frames
from openpali.eval.predicting.objects import MaskReader
from openpali.eval.prompts.other_models import find_adapter
from openpali.eval.web.answerer import Answerer
from openpali.eval.web.examples import draw_examples
from openpali.eval.web.prompts import buttons_for
from openpali.modeling.checkpoints import add_incomplete
from openpali.modeling.dtypes import CHOICES, dtype_name
from openpali.modeling.user_errors import UserError, at_least, command


@command("openpali demo", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run it: load the model, and serve the page until it is interrupted."""
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="openpali-demo-", ignore_cleanup_errors=True) as folder:
        keep_local(folder)
        # first: it fails faster than a checkpoint loads
        from openpali.eval.web.page import MOST_BEAMS, MOST_TOKENS, Look, build_page, launch

        masks = MaskReader(args.codec, args.model, needed=False, verb="demo")
        model, processor = load_model(args.model, args.device, args.dtype, args.incomplete_checkpoint)
        buttons = buttons_for(model, processor)
        examples, credits = draw_examples(buttons, Path(folder))
        look = Look(
            model=args.model,
            facts=facts_of(model),
            buttons=buttons,
            examples=examples,
            credits=credits,
            several=not find_adapter(model, processor).one_image,
            num_beams=min(args.num_beams, MOST_BEAMS),
            max_new_tokens=min(args.max_new_tokens, MOST_TOKENS),
        )
        answerer = Answerer(model, processor, masks, args.batch_size, args.num_frames, args.time_limit)
        page = build_page(answerer, look)
        # uploads are removed then as well
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            address = launch(page, args.host, args.port, args.queue_size)
        except OSError as error:
            raise no_address(args, error) from error
        print(f"{args.model} answers on {address} until Ctrl+C", flush=True)
        wait()
        page.close(verbose=False)


def keep_local(folder: str) -> None:
    """Make Gradio ask no other host, and keep uploads in a folder that is removed at the end."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    # it asks its own server whether it is there, which a proxy cannot answer
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost,127.0.0.1,::1")))


def facts_of(model: Any) -> str:
    """What answers, in a line."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return f"{type(model).__name__}, {total:,} parameters, {dtype_name(model.dtype)} on {model.device}"


def no_address(args: argparse.Namespace, error: OSError) -> UserError:
    """The error of a host or port that cannot be used."""
    where = "ports 7860 to 7959" if args.port is None else f"port {args.port}"
    return UserError(
        f"{where} of {args.host} cannot be used ({error.strerror or 'taken, or not of this machine'}):"
        " give another --port or --host"
    )


def wait() -> None:
    """Wait until the process is interrupted."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="openpali demo", description="Answer prompts about images on a web page.")
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        nargs="?",
        default="nano",
        help="folder or Hub name of any image-text-to-text checkpoint (default: %(default)s)",
    )
    add("--host", default="127.0.0.1", help="this machine alone; 0.0.0.0 lets others in (default: %(default)s)")
    add("--port", type=port_number, help="the first free one from 7860 when left out")
    add("--time_limit", type=seconds, default=120.0, help="seconds that a request may take (default: 120)")
    add("--queue_size", type=at_least(1), default=16, help="requests that may wait (default: %(default)s)")
    add("--batch_size", type=at_least(1), default=8, help="prompts that are answered together (default: %(default)s)")
    add("--num_frames", type=frames, default=16, help="that the model sees of a clip (default: %(default)s)")
    add("--codec", help=f"folder or Hub name of the mask VQ-VAE (default: {DEFAULT_CODEC} where there is one)")
    add("--max_new_tokens", type=at_least(1), default=64, help="longest answer at first (default: %(default)s)")
    add("--num_beams", type=at_least(1), default=1, help="at first; 1 is greedy (default: %(default)s)")
    add("--device", help="the first accelerator, else the CPU, when left out")
    add("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    add_incomplete(parser)
    return parser.parse_args(argv)


def port_number(text: str) -> int:
    """The argparse type of a port."""
    if not 1 <= (number := int(text)) <= 65535:
        raise argparse.ArgumentTypeError(f"it is from 1 to 65535, not {number}")
    return number


def seconds(text: str) -> float:
    """The argparse type of a time above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"it is above 0, not {text}")
    return number


if __name__ == "__main__":
    main()
