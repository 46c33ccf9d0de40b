"""Answer a prompt about one image, and draw the boxes and masks of the answer.

openpali predict outputs/demo/transfer photo.jpg "answer en what is this?"
openpali predict outputs/demo/transfer photo.jpg "detect dog" --save boxes.png
openpali predict outputs/demo/transfer photo.jpg "segment dog" --codec outputs/mask-vqvae --masks outputs/masks
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openpali.data.example import Example
from openpali.data.images.open_image import load_image
from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, load_codec
from openpali.data.masks.rle import decode_rle, encode_rle
from openpali.eval.answering.decoding import generate
from openpali.eval.answering.load_model import load_model
from openpali.eval.report.drawing import draw_predictions
from openpali.modeling.checkpoints import add_incomplete
from openpali.modeling.dtypes import CHOICES
from openpali.modeling.location_tokens import LocatedBox, parse_detections
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.modeling.segmentation_tokens import parse_segmentations
from openpali.modeling.user_errors import at_least, command


@command("openpali predict", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Run it: print the answer, then a line for each box and mask in it, in pixels, and draw them."""
    args = parse_arguments(argv)
    # image and mask tokenizer first: they fail faster than a checkpoint loads
    image = load_image(args.image)
    codec = load_codec(args.codec or DEFAULT_CODEC) if args.codec or args.masks else None
    model, processor = load_model(args.model, args.device, args.dtype, args.incomplete_checkpoint)
    example = Example(id=args.image, task="predict", images=(image,), prefix=args.text)
    answer = generate(model, processor, [example], 1, args.max_new_tokens, args.num_beams, progress=False)[0]
    print(answer)
    found, rejected = parse_answer(answer, image, codec or default_codec(answer))
    for one in found:
        print(format_object(one, image))
    for part, reason in rejected:
        print(f"not read: {part!r}, since {reason}")
    if found or args.save:
        save_drawing(args.save or Path(f"{Path(args.image).stem}_answer.png"), image, found)
    if args.masks:
        save_masks(args.masks, found)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="openpali predict", description="Answer a prompt about one image.")
    parser.add_argument("model", help="folder or Hub name of any image-text-to-text checkpoint")
    parser.add_argument("image", help="image file")
    parser.add_argument(
        "text", nargs="?", default="", help='prompt, such as "caption en", "detect dog" or "segment dog"'
    )
    parser.add_argument(
        "--save", type=Path, help="drawing of the answer's boxes and masks (default: IMAGE_answer.png if it has any)"
    )
    parser.add_argument(
        "--codec", help=f"folder or Hub name of the mask VQ-VAE (default: {DEFAULT_CODEC} where there is one)"
    )
    parser.add_argument("--masks", type=Path, metavar="DIR", help="write each mask as a PNG, white inside, as well")
    parser.add_argument("--max_new_tokens", type=at_least(1), default=64, help="longest answer (default: %(default)s)")
    parser.add_argument("--num_beams", type=at_least(1), default=1, help="1 is greedy (default: %(default)s)")
    parser.add_argument("--device", help="the first accelerator, else the CPU, when left out")
    parser.add_argument("--dtype", choices=CHOICES, default="auto", help="of the weights; auto: the checkpoint's own")
    add_incomplete(parser)
    return parser.parse_args(argv)


def default_codec(answer: str) -> MaskVQVAE | None:
    """The mask VQ-VAE of `DEFAULT_CODEC` where the answer has masks; None with a message where there is none."""
    if not parse_segmentations(answer).masks:
        return None
    try:
        return load_codec(DEFAULT_CODEC)
    except ValueError as error:
        print(f"openpali predict: masks are left out, since {error}", file=sys.stderr)
        return None


def parse_answer(
    answer: str, image: Image.Image, codec: MaskVQVAE | None
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Parse the boxes and masks of an answer, in its order.

    Returns:
        Objects `{"box": [x0, y0, x1, y1] in [0, 1], "label", "mask": RLE or None}`, without masks where there is no
        codec; and malformed parts with the reason.
    """
    found, rejected = [], []
    for part in answer.split(";") if "<loc" in answer else ():
        # a referring answer has a box without a label
        boxes, masks = parse_detections(part, labelled=False), parse_segmentations(part)
        if masks.masks and codec is not None:
            read = codec.read(part, image.height, image.width)
            found += [object_dict(box, mask.cpu().numpy()) for box, mask in zip(read.boxes, read.masks)]
            rejected += read.rejected
        else:
            found += [object_dict(box) for box in [mask.box for mask in masks.masks] + boxes.boxes]
        if not masks.masks and not boxes.boxes:
            rejected += masks.rejected if "<seg" in part else boxes.rejected
    return found, [(part, reason) for part, reason in rejected]


def object_dict(box: LocatedBox, mask: np.ndarray | None = None) -> dict[str, Any]:
    """A box and its mask, bool[H, W], in the format of metrics and drawings."""
    rle = None if mask is None else encode_rle(mask)
    return {"box": list(box.normalised_xyxy()), "label": box.label, "mask": rle}


def format_object(one: dict[str, Any], image: Image.Image) -> str:
    """An object on one line, in pixels of the image."""
    x0, y0, x1, y1 = (round(x * side) for x, side in zip(one["box"], (*image.size, *image.size)))
    line = f"{one['label'] or 'no label'}: x {x0} to {x1}, y {y0} to {y1}"
    return line if one["mask"] is None else f"{line}, mask of {decode_rle(one['mask']).sum()} pixels"


def save_drawing(path: Path, image: Image.Image, found: Sequence[dict[str, Any]]) -> None:
    """Write the image with boxes and masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_predictions(image, found).save(path)
    masks = sum(one["mask"] is not None for one in found)
    counts = [f"{len(found)} {'box' if len(found) == 1 else 'boxes'}"]
    counts += [f"{masks} {'mask' if masks == 1 else 'masks'}"] if masks else []
    print(f"Image with {' and '.join(counts)}: {path}")


def save_masks(folder: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write each mask at the size of the image: 255 inside, 0 outside."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, one in enumerate(found, 1):
        if one["mask"] is not None:
            name = "_".join([f"{index:02d}", *re.findall(r"\w+", one["label"])])[:80]
            path = folder / f"{name}.png"
            Image.fromarray(decode_rle(one["mask"]).astype(np.uint8) * 255).save(path)
            print(f"Mask: {path}")


if __name__ == "__main__":
    main()
