"""Sizes of PaliGemma 1 and 2. The configuration is Transformers' own; with an image encoder for images of any aspect
ratio it is `PaliGemmaNaflexConfig`.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PaliGemmaConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from .image_patches import NAFLEX, is_naflex

PRESETS = Path(__file__).parent / "presets" / "paligemma.yaml"
TEXT_MODELS = ("gemma", "gemma2")


class PaliGemmaNaflexConfig(PaliGemmaConfig):
    """PaliGemma with an image encoder for images of any aspect ratio, SigLIP 2's NaFlex.

    It is a model type of its own: Transformers' PaliGemma wants the `image_size` of its image encoder, and its forward
    gives the encoder no `spatial_shapes`.

    Raises:
        ValueError: the image encoder is another one, or `image_encoder="none"`, whose patches are of square images.
    """

    model_type = "paligemma_naflex"
    sub_configs_defaults = PaliGemmaConfig.sub_configs_defaults | {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type=NAFLEX, init_kwargs={})
    }

    def __post_init__(self, **kwargs: Any) -> None:
        # the rest of PaliGemmaConfig's, without the image size
        PreTrainedConfig.__post_init__(self, **kwargs)
        vision: Any = self.vision_config
        text: Any = self.text_config
        if not is_naflex(vision):
            raise ValueError(f"{self.model_type} needs an image encoder {NAFLEX}, not {vision.model_type}")
        if getattr(self, "image_encoder", "siglip") != "siglip":
            raise ValueError("image_encoder: none reads square images: leave it out with SigLIP 2's NaFlex")
        if text.use_bidirectional_attention is None:
            text.use_bidirectional_attention = True
        text.num_image_tokens = vision.num_patches
        vision.projection_dim = self.projection_dim


# as in configuration_pali3
_NAMES: Any = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
_NAMES[PaliGemmaNaflexConfig.model_type] = "PaliGemmaNaflexForConditionalGeneration"

# model types of PaliGemma's configurations
PALIGEMMA_TYPES = (PaliGemmaConfig.model_type, PaliGemmaNaflexConfig.model_type)


def paligemma_config(vision_config: dict[str, Any], text_config: dict[str, Any], **fields: Any) -> PaliGemmaConfig:
    """Compose the configuration of an image encoder and a text model, with their widths and sizes.

    Args:
        vision_config: of SigLIP, or of SigLIP 2's NaFlex by its `model_type`.
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
    kind, own = PaliGemmaConfig, {"model_type": "siglip_vision_model", "vision_use_head": False}
    if vision_config.get("model_type") == NAFLEX:
        kind, own["model_type"] = PaliGemmaNaflexConfig, NAFLEX
        vision_config = {key: value for key, value in vision_config.items() if key != "image_size"}
    tied = text_config.get("tie_word_embeddings", True)
    fields = {"tie_word_embeddings": tied, "vocab_size": text_config["vocab_size"]} | fields
    return kind(
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


__all__ = ["PaliGemmaNaflexConfig", "paligemma_config", "paligemma_preset"]
