"""Answer prompts about images and clips, and draw the boxes and masks of the answers.

openpali predict nano photo.jpg "answer en what is this?"
openpali predict nano photo.jpg "detect dog" --save boxes.png
openpali predict nano photo.jpg "segment dog" --masks outputs/masks
openpali predict nano photos "detect dog" --save outputs/drawn
openpali predict nano "photos/*.jpg" --prompt "caption en" --prompt "detect dog" --json
find photos -name "*.jpg" | openpali predict nano - "caption en" --json
"""

import argparse
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openpali.data.images.video import MAX_FRAMES
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC
from openpali.eval.answering.load_model import load_model
from openpali.eval.predicting.answers import answer_prompts
from openpali.eval.predicting.images import Picture, find_images, images_and_prompts, read_groups
from openpali.eval.predicting.objects import MaskReader
from openpali.eval.predicting.output import plan_output
from openpali.eval.scoring.detection_reward import check_overlap
from openpali.modeling.checkpoints import add_incomplete
from openpali.modeling.dtypes import CHOICES
from openpali.modeling.user_errors import UserError, at_least, command, explain

FEW = 8  # answers that need no progress bar


@command("openpali predict", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run it: print each answer, then a line for each box and mask in it, in pixels, and draw them."""
    args = parse_arguments(argv)
    words, prompts = images_and_prompts(args.images, args.prompt)
    paths = find_images(words, sys.stdin)
    skipped = Skipped(paths)
    # images, folders and mask tokenizer first: they fail faster than a checkpoint loads
    groups = read_groups(paths, args.batch_size, args.num_frames, skipped.add)
    first = next(groups, None)
    if first is None:
        raise UserError(f"none of the {len(paths):,} images can be read")
    masks = MaskReader(args.codec, args.model, needed=args.masks is not None)
    output = plan_output(paths, prompts, args.save, args.masks, args.json, args.drop_duplicates)
    output.make_folders()
    options = (args.device, args.dtype, args.incomplete_checkpoint, args.image_tokens)
    model, processor = load_model(args.model, *options)
    total = len(paths) * len(prompts)
    with tqdm(total=total, unit="answer", disable=total <= FEW, leave=False) as bar:
        every: Iterable[list[Picture]] = chain([first], groups)
        for group in every:
            search = (args.batch_size, args.max_new_tokens, args.num_beams)
            for picture, answers in zip(group, answer_prompts(model, processor, group, prompts, *search)):
                for prompt, answer in zip(prompts, answers, strict=True):
                    output.write(picture, prompt, answer, masks)
                    bar.update()
    if skipped.count:
        raise UserError(f"{skipped.count:,} of {len(paths):,} images could not be read; all others are answered")


class Skipped:
    """Images that cannot be read: each is named, and counted."""

    def __init__(self, paths: list[str]) -> None:
        """Set all images of the run."""
        self.alone, self.count = len(paths) == 1, 0

    def add(self, path: str, error: Exception) -> None:
        """Name an image and its fault. The only image raises it."""
        if self.alone:
            raise error
        self.count += 1
        reason = explain(error)
        tqdm.write(f"openpali predict: skipped, {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="openpali predict",
        usage="%(prog)s MODEL IMAGE [IMAGE ...] [PROMPT] [options]",
        description="Answer a prompt about an image, or several prompts about several images and clips.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder or Hub name of any image-text-to-text checkpoint, or nano, which ships"
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help='image, clip, folder of them, pattern in quotes such as "photos/*.jpg", or - for a list of paths on the'
        ' standard input; the last of several words is the prompt, such as "caption en", "detect dog" or "segment'
        ' dog", unless --prompt is given',
    )
    add = parser.add_argument
    add("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be given several times")
    add("--batch_size", type=at_least(1), default=8, help="prompts that are answered together (default: %(default)s)")
    add("--num_frames", type=frames, default=16, help="that the model sees of a clip (default: %(default)s)")
    add("--json", action="store_true", help="print each answer as a JSON object on a line")
    add(
        "--save",
        type=Path,
        metavar="PATH",
        help="drawing of the answer's boxes and masks (default: IMAGE_answer.png if it has any); for several answers a"
        " folder (default: none are drawn)",
    )
    add("--codec", help=f"folder or Hub name of the mask VQ-VAE (default: the model's own, else {DEFAULT_CODEC})")
    add("--masks", type=Path, metavar="DIR", help="write each mask as a PNG, white inside, as well")
    add("--max_new_tokens", type=at_least(1), default=64, help="longest answer (default: %(default)s)")
    add(
        "--drop_duplicates",
        type=overlap,
        metavar="IOU",
        help="leave out boxes that overlap a more confident one of their label by more than this, as 0.7",
    )
    add("--num_beams", type=at_least(1), default=1, help="1 is greedy (default: %(default)s)")
    add(
        "--image_tokens",
        type=at_least(1),
        help="most tokens of an image of any aspect ratio, for a model with NaFlex (default: the checkpoint's)",
    )
    add("--device", help="the first accelerator, else the CPU, when left out")
    add("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    add_incomplete(parser)
    return parser.parse_intermixed_args(argv)


def overlap(text: str) -> float:
    """The argparse type of an overlap."""
    try:
        return check_overlap(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def frames(text: str) -> int:
    """The argparse type of a number of frames."""
    number: Any = at_least(1)(text)
    if number > MAX_FRAMES:
        raise argparse.ArgumentTypeError(f"it is at most {MAX_FRAMES}, not {number}")
    return number


if __name__ == "__main__":
    main()
