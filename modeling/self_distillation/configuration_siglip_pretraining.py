"""Configuration of SigLIP 2's pretraining: two towers, a text decoder, and self-distillation."""

from typing import Any

from transformers import PreTrainedConfig, SiglipConfig
from transformers.configuration_utils import SubConfigSpec

from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig


class SiglipPretrainingConfig(PreTrainedConfig):
    r"""Configuration of [`SiglipForPretraining`]. Defaults are DINO's or our own, where the papers were not at hand.

    Args:
        siglip_config (`dict` or `SiglipConfig`, *optional*):
            The two towers, with the options of [`SiglipForContrastiveLearning`].
        decoder_config (`dict` or `CaptionDecoderConfig`, *optional*):
            The decoder.
        distillation (`bool`, *optional*, defaults to `False`):
            Whether there are a teacher and heads.
        head_hidden_size (`int`, *optional*, defaults to 2048):
            Width between the layers of a head.
        head_bottleneck_size (`int`, *optional*, defaults to 256):
            Width of a head's output.
        prototypes (`int`, *optional*, defaults to 65536):
            Directions that a head's output is compared with.
        student_temperature (`float`, *optional*, defaults to 0.1):
            Of the student's similarities.
        teacher_temperature (`float`, *optional*, defaults to 0.04):
            Of the teacher's.
        caption_weight (`float`, *optional*, defaults to 1.0):
            Of the decoder's loss.
        local_weight (`float`, *optional*, defaults to 1.0):
            Of the loss between local views and the teacher's global one.
        masked_weight (`float`, *optional*, defaults to 0.25):
            Of the loss of masked patches.
    """

    model_type = "siglip_pretraining"
    sub_configs_defaults = {
        "siglip_config": SubConfigSpec(config_class=SiglipConfig),
        "decoder_config": SubConfigSpec(config_class=CaptionDecoderConfig),
    }

    # given as a dict or a configuration, a configuration after construction
    siglip_config: Any = None
    decoder_config: Any = None
    distillation: bool = False
    head_hidden_size: int = 2048
    head_bottleneck_size: int = 256
    prototypes: int = 65536
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    caption_weight: float = 1.0
    local_weight: float = 1.0
    masked_weight: float = 0.25

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.decoder_config.encoder_hidden_size = self.siglip_config.vision_config.hidden_size

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The text tower's, which the Trainer compares with the tokenizer."""
        return self.siglip_config.text_config


__all__ = ["SiglipPretrainingConfig"]
