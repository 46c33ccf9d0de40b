"""Processor of PaliGemma with images of any aspect ratio."""

from .processing_paligemma import PaliGemmaProcessor


class PaliGemmaNaflexProcessor(PaliGemmaProcessor):
    """`PaliGemmaProcessor` with `Siglip2ImageProcessor`: an image has as many placeholders as patches.

    Its name is its own, since `AutoProcessor` takes a saved `PaliGemmaProcessor` for Transformers' class, which writes
    the same number of placeholders for every image.
    """


__all__ = ["PaliGemmaNaflexProcessor"]
