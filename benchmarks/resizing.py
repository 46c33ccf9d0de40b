"""`python benchmarks/resizing.py`: differences between Pillow's resizing and torch's.

    python benchmarks/resizing.py --sides 224

Torch's is what Transformers uses if torchvision is installed. Photographs of scikit-image, shrunk from their own size
and enlarged from 96 x 80 pixels, go through SigLIP's image processor. Differences are in levels of 255. Our `exact`
way is Pillow's, the other one torch's, with torchvision or without (`data/images/preprocess.py`,
`tests/data/images/test_torchvision.py`).
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from skimage import data
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.images.preprocess import FastImageProcessor

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def photographs() -> list[Image.Image]:
    """Photographs that scikit-image ships."""
    return [Image.fromarray(read()) for read in (data.astronaut, data.coffee, data.chelsea, data.rocket)]


def values(image_processor: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    """float[n, 3, H, W] in levels of 255."""
    return (image_processor(list(images), return_tensors="pt")["pixel_values"] + 1) * 127.5


def main() -> None:
    """Print a line for each size, filter and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 448])
    sides = parser.parse_args().sides
    print(f"{'to':>5}  {'filter':<9} {'':<9} {'largest':>8} {'mean':>8} {'values that differ':>20}")
    for side in sides:
        for kind, resample in FILTERS.items():
            pillow: Any = SiglipImageProcessorPil(size={"height": side, "width": side}, resample=resample)
            for way in ("shrunk", "enlarged"):
                images = [p if way == "shrunk" else p.resize((96, 80)) for p in photographs()]
                off = (values(pillow, images) - values(FastImageProcessor(pillow, exact=False), images)).abs()
                share = float((off > 0.5).float().mean())
                print(
                    f"{side:>5}  {kind:<9} {way:<9} {float(off.max()):>8.2f} {float(off.mean()):>8.4f} {share:>20.2%}"
                )


if __name__ == "__main__":
    main()
