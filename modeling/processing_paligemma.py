"""Processor of PaliGemma."""

from transformers.models.paligemma import processing_paligemma as stock


class PaliGemmaProcessor(stock.PaliGemmaProcessor):
    """Stock files."""
