"""Sizes of PaliGemma 1 and 2; the configuration itself is Transformers' own."""

from pathlib import Path
from typing import Any

from transformers import PaliGemmaConfig

PRESETS = Path(__file__).parent / "presets" / "paligemma.yaml"
TEXT_MODELS = ("gemma", "gemma2")


def paligemma_config(vision_config: dict[str, Any], text_config: dict[str, Any], **fields: Any) -> PaliGemmaConfig:
    """Compose the configuration of an image encoder and a text model, with their widths and sizes.

    Args:
        vision_config: of SigLIP.
        text_config: of Gemma or Gemma 2, with its `model_type`.
        **fields: any other field, such as `image_token_id` or `projector`.

    Raises:
        ValueError: the text model is another one.
    """
    if text_config.get("model_type") not in TEXT_MODELS:
        raise ValueError(
            f"PaliGemma's text model is Gemma or Gemma 2, not {text_config.get('model_type')!r}; encoder-decoders are"
            " PaLI-3's"
        )
    width = text_config["hidden_size"]
    own = {"model_type": "siglip_vision_model", "vision_use_head": False}
    tied = text_config.get("tie_word_embeddings", True)
    fields = {"tie_word_embeddings": tied, "vocab_size": text_config["vocab_size"]} | fields
    return PaliGemmaConfig(
        vision_config=vision_config | own, text_config=text_config, projection_dim=width, hidden_size=width, **fields
    )


def paligemma_preset(name: str, image_size: int | None = None, **fields: Any) -> PaliGemmaConfig:
    """One of the shipped sizes (`modeling/presets/paligemma.yaml`).

    Args:
        name: nano, 3b, or of PaliGemma 2: 2-3b, 2-10b, 2-28b.
        image_size: in place of the image encoder's, in pixels.
        **fields: other fields; `vision_config` and `text_config` change what they name and leave the rest.

    Raises:
        ValueError: if there is no such preset; the message lists those there are.
    """
    import yaml

    known = yaml.safe_load(PRESETS.read_text())
    if name not in known:
        raise ValueError(f"no preset {name!r} of PaliGemma; there are {', '.join(known)}")
    vision = known[name]["vision_config"] | fields.pop("vision_config", {})
    text = known[name]["text_config"] | fields.pop("text_config", {})
    if image_size is not None:
        vision["image_size"] = image_size
    return paligemma_config(vision, text, **fields)


__all__ = ["paligemma_config", "paligemma_preset"]
