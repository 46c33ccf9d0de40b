"""Answer a prompt about one picture.

openpali predict outputs/demo/transfer photo.jpg "answer en what is this?"
openpali predict outputs/demo/transfer photo.jpg "detect dog" --save boxes.png
"""

import argparse
from pathlib import Path

from openpali.data.example import Example
from openpali.data.images import load_image
from openpali.eval.decoding import generate
from openpali.eval.drawing import draw_boxes
from openpali.eval.loading import load_model
from openpali.modeling.location_tokens import parse_detections


def main(argv: list[str] | None = None) -> None:
    """Run it: print the answer, then a line for each box in it, in pixels."""
    args = parse_arguments(argv)
    try:
        # the picture first: it fails sooner than a checkpoint loads
        image = load_image(args.image)
        model, processor = load_model(args.model, args.device)
    except (ValueError, OSError) as error:
        raise SystemExit(f"openpali predict: {error}") from error
    example = Example(id=args.image, task="predict", images=(image,), prefix=args.text)
    answer = generate(model, processor, [example], 1, args.max_new_tokens, args.num_beams, progress=False)[0]
    print(answer)
    found = parse_detections(answer).boxes
    for box in found:
        x0, x1 = (round(x * image.width) for x in (box.x1, box.x2))
        y0, y1 = (round(y * image.height) for y in (box.y1, box.y2))
        print(f"{box.label}: x {x0} to {x1}, y {y0} to {y1}")
    if args.save:
        boxes = [{"box": [box.x1, box.y1, box.x2, box.y2], "label": box.label} for box in found]
        args.save.parent.mkdir(parents=True, exist_ok=True)
        draw_boxes(image, [], boxes).save(args.save)
        print(f"Picture with {len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}: {args.save}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="openpali predict", description="Answer a prompt about one picture.")
    parser.add_argument("model", help="folder or Hub name of any image-text-to-text checkpoint")
    parser.add_argument("image", help="picture file")
    parser.add_argument("text", nargs="?", default="", help='prompt, such as "caption en" or "detect dog"')
    parser.add_argument("--save", type=Path, help="write the picture with the answer's boxes drawn on it")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="longest answer (default: %(default)s)")
    parser.add_argument("--num_beams", type=int, default=1, help="1 is greedy (default: %(default)s)")
    parser.add_argument("--device", help="the first accelerator, else the CPU, when left out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
