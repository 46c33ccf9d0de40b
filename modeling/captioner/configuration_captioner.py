"""Configuration of captioners: a SigLIP image encoder without pooling head, and a text decoder on its tokens."""

from typing import Any

from transformers import PreTrainedConfig, SiglipVisionConfig
from transformers.configuration_utils import SubConfigSpec


class CaptionDecoderConfig(PreTrainedConfig):
    r"""Configuration of [`CaptionDecoder`]. The defaults are those of CapPa's published recipe for B/16.

    Args:
        vocab_size (`int`, *optional*, defaults to 32000):
            Tokens that are predicted. With `mask_token` the embedding table has one more row, the mask.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the decoder.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the MLPs.
        num_hidden_layers (`int`, *optional*, defaults to 6):
            Layers.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads of self- and cross-attention.
        encoder_hidden_size (`int`, *optional*):
            Width of the image tokens, the decoder's own when left out. There is no projection between them.
        max_position_embeddings (`int`, *optional*, defaults to 64):
            Tokens of a text, padding included.
        use_bias (`bool`, *optional*, defaults to `False`):
            Whether the norms and MLPs of the layers have biases. Attention has none, the last norm and the output
            layer always have one.
        mask_token (`bool`, *optional*, defaults to `True`):
            Whether there is a mask, which parallel prediction needs. Its id is `vocab_size`.
        dropout (`float`, *optional*, defaults to 0.0):
            Of attention weights, behind each attention, and inside the MLPs.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Of the training loss.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Of all norms.
        pad_token_id (`int`, *optional*, defaults to 0):
            Padding, which is not predicted, and the start of every text.
        eos_token_id (`int`, *optional*, defaults to 1):
            End of a text.
    """

    model_type = "caption_decoder"
    base_config_key = "decoder_config"

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    encoder_hidden_size: int | None = None
    max_position_embeddings: int = 64
    use_bias: bool = False
    mask_token: bool = True
    dropout: float = 0.0
    label_smoothing: float = 0.0
    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.encoder_hidden_size is None:
            self.encoder_hidden_size = self.hidden_size
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"the decoder's width {self.hidden_size} cannot be split into {self.num_attention_heads} heads"
            )

    @property
    def mask_token_id(self) -> int | None:
        """Id of the mask; None without one."""
        return self.vocab_size if self.mask_token else None


class CaptionerConfig(PreTrainedConfig):
    r"""Configuration of [`Captioner`].

    Args:
        vision_config (`dict` or `SiglipVisionConfig`, *optional*):
            The image encoder, SigLIP's B/16 at 224 px when left out. It has no pooling head.
        decoder_config (`dict` or `CaptionDecoderConfig`, *optional*):
            The decoder.
        caption_prompt (`str`, *optional*, defaults to `""`):
            What stands in front of every caption, `{language}` in place of its language: `""` where captions are all
            that the decoder writes, `"caption {language}"` where it has several tasks.

    Example:

    ```python
    >>> from openpali.modeling.captioner.configuration_captioner import CaptionerConfig
    >>> from openpali.modeling.captioner.modeling_captioner import Captioner

    >>> model = Captioner(CaptionerConfig())  # CapPa B/16
    ```"""

    model_type = "captioner"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=SiglipVisionConfig),
        "decoder_config": SubConfigSpec(config_class=CaptionDecoderConfig),
    }

    # given as a dict or a configuration, a configuration after construction
    vision_config: Any = None
    decoder_config: Any = None
    caption_prompt: str = ""
    # the decoder's
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.vision_config.vision_use_head = False
        self.decoder_config.encoder_hidden_size = self.vision_config.hidden_size
        self.pad_token_id, self.eos_token_id = self.decoder_config.pad_token_id, self.decoder_config.eos_token_id


__all__ = ["CaptionDecoderConfig", "CaptionerConfig"]
