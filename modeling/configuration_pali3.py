"""Configuration of PaLI-3 (arXiv 2310.09199): a SigLIP encoder, a projector and any encoder-decoder."""

# first: it refuses a release that is too old, before an import fails there
from .transformers_versions import CACHE_NAMES  # isort: skip

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from .checkpoints import load_config
from .image_patches import is_naflex, most_image_tokens

PRESETS = Path(__file__).parent / "presets"

# ViT-G/14, SigLIP 2B: PaLI-3 section 3.1
VIT_G14: dict[str, Any] = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "vision_use_head": False,
}
# the 3B UL2 encoder-decoder has the shape of T5 v1.1 XL; the vocabulary is T5's with
# 1024 location tokens, 128 segmentation tokens and <image>, rounded up to a multiple of 128
UL2_3B: dict[str, Any] = {
    "vocab_size": 33280,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "bos_token_id": 0,
}

CHOICES = {
    "projector": ("linear", "mlp"),
    "projector_init": ("zeros", "normal"),
    "image_positions": ("none", "sine"),
}


class Pali3Config(PreTrainedConfig):
    r"""Configuration of [`Pali3ForConditionalGeneration`]. `Pali3Config()` is the 5B model of the paper.

    Args:
        vision_config (`dict` or `SiglipVisionConfig`, *optional*):
            The image encoder, ViT-G/14 when left out, or a `Siglip2VisionConfig` for images of any aspect ratio. It is
            used without pooling, so `vision_use_head` is False.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Any encoder-decoder of Transformers (T5, UMT5, T5Gemma are tested), by its `model_type`.
            The shape of T5 v1.1 XL when left out.
        projector (`str`, *optional*, defaults to `"linear"`):
            `"linear"`, or `"mlp"` for one hidden GELU layer.
        projector_init (`str`, *optional*, defaults to `"zeros"`):
            Initialisation of the projector's last layer: `"zeros"`, as in the paper, or `"normal"`, with outputs as
            large as its inputs, so that a short training uses images from its first step.
        image_positions (`str`, *optional*, defaults to `"none"`):
            `"sine"` adds fixed two-dimensional sines, as large as the text model's embeddings (unit root mean square),
            to the projected image tokens. T5 has no absolute positions, so without them only the image encoder's
            features show where a token lies. The paper adds none.
        image_token_id (`int`, *optional*, defaults to 33252):
            Placeholder in `input_ids`; one for every patch of every image.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Smoothing of the training loss.
        tie_word_embeddings (`bool`, *optional*):
            Whether the LM head is the embedding table. Taken from the text model when left out.
        scale_decoder_outputs (`bool`, *optional*):
            Whether hidden states are multiplied by `d_model ** -0.5` before the LM head. When left out, True for
            T5-like text models with a tied LM head, as T5 was trained.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id (`int`, *optional*):
            Taken from the text model when left out.

    Example:

    ```python
    >>> from openpali import Pali3Config, Pali3ForConditionalGeneration

    >>> config = Pali3Config.from_preset("nano", vocab_size=4096)
    >>> model = Pali3ForConditionalGeneration(config)
    ```"""

    model_type = "pali3"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model", init_kwargs=VIT_G14),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="t5", init_kwargs=UL2_3B),
    }
    # outputs that the Trainer does not gather as predictions, so that only the logits are
    keys_to_ignore_at_inference = [
        *CACHE_NAMES,
        "encoder_last_hidden_state",
        "image_hidden_states",
        "example_losses",
        "token_losses",
        "second_losses",
    ]

    # given as a dict or a configuration, a configuration after construction
    vision_config: Any = None
    text_config: Any = None
    projector: str = "linear"
    projector_init: str = "zeros"
    image_positions: str = "none"
    image_token_id: int = 33252
    label_smoothing: float = 0.0
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool | None = None
    scale_decoder_outputs: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be {known[0]!r} or {known[1]!r}, not {getattr(self, field)!r}")
        if not self.text_config.is_encoder_decoder:
            raise ValueError(
                f"PaLI-3 needs an encoder-decoder as its text model; {self.text_config.model_type!r} is not one."
                " T5, UMT5 and T5Gemma are."
            )
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self._text_model_ties()
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self._is_t5_like() and self.tie_word_embeddings
        self._resolve_special_tokens()
        self.vision_config.vision_use_head = False

    def _resolve_special_tokens(self) -> None:
        """Take tokens that are not given from the text model (of T5Gemma, from its decoder)."""
        if self.pad_token_id is None:
            self.pad_token_id = self._text_token("pad_token_id")
        if self.eos_token_id is None:
            self.eos_token_id = self._text_token("eos_token_id")
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self._text_token("decoder_start_token_id", "bos_token_id", "pad_token_id")
        if self.bos_token_id is None:
            self.bos_token_id = self.decoder_start_token_id

    def _is_t5_like(self) -> bool:
        return self.text_config.model_type in ("t5", "umt5", "mt5", "longt5")

    def _text_model_ties(self) -> bool:
        """Whether the LM head is tied. All T5 configurations say so; the original T5 scales too, v1.1 does not."""
        if self.text_config.model_type == "t5":
            return bool(self.text_config.scale_decoder_outputs)
        return bool(self.text_config.tie_word_embeddings)

    @property
    def image_seq_length(self) -> int:
        """Number of tokens of one image; of images of any aspect ratio, of a square one of the encoder's training."""
        return most_image_tokens(self.vision_config)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """The text model's configuration; of T5Gemma, which has two, its decoder's."""
        text_config = super().get_text_config(decoder=decoder, encoder=encoder)
        return text_config.decoder if text_config.model_type == "t5gemma" else text_config

    def _text_token(self, *names: str) -> int:
        """The first of `names` that the text model or its decoder part sets."""
        for config in (self.text_config, self.get_text_config(decoder=True)):
            for name in names:
                token = getattr(config, name, None)
                if token is not None:
                    return token[0] if isinstance(token, list) else token
        raise ValueError(f"text_config sets none of {', '.join(names)}")

    @classmethod
    def from_preset(
        cls,
        name: str,
        vocab_size: int | None = None,
        image_token_id: int | None = None,
        image_size: int | None = None,
        **kwargs,
    ) -> "Pali3Config":
        """Read one of the shipped sizes (`modeling/presets/pali3-*.yaml`).

        Args:
            name: for instance "nano" or "5b".
            vocab_size: replaces the text model's.
            image_token_id: the tokenizer's `<image>`.
            image_size: replaces the image encoder's, in pixels.
            **kwargs: any other field of the configuration.

        Raises:
            ValueError: if there is no such preset; the message lists those there are.
        """
        import yaml

        known = {path.stem.removeprefix("pali3-"): path for path in PRESETS.glob("pali3-*.yaml")}
        if name not in known:
            raise ValueError(f"no preset {name!r}; there are {', '.join(sorted(known)) or 'none here'}")
        fields = yaml.safe_load(known[name].read_text())
        if vocab_size is not None:
            fields["text_config"]["vocab_size"] = vocab_size
        if image_token_id is not None:
            fields["image_token_id"] = image_token_id
        if image_size is not None:
            fields["vision_config"]["image_size"] = image_size
        return cls(**(fields | kwargs))


def vision_config_of(name: str) -> Any:
    """The image tower's configuration, without its pooling head, of a SigLIP, a SigLIP 2 (NaFlex) or a captioner."""
    config: Any = load_config(name)
    vision_config = config.vision_config if config.model_type in ("siglip", "siglip2", "captioner") else config
    if vision_config.model_type != "siglip_vision_model" and not is_naflex(vision_config):
        raise ValueError(f"{name} holds a {config.model_type!r} model; from_backbones needs a SigLIP one")
    vision_config.vision_use_head = False
    return vision_config


# `transformers serve` and the any-to-any pipeline look up the class by this name; it stands here because the server
# does so when only the configuration is imported
_NAMES: Any = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
_NAMES[Pali3Config.model_type] = "Pali3ForMultimodalLM"

__all__ = ["Pali3Config"]
