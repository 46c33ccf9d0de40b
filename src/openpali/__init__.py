"""openpali: the PaLI vision-language models for Hugging Face Transformers, with every training stage.

Importing it registers PaLI-3 and PaliGemma with NaFlex with the Auto classes, so that
`pipeline("image-text-to-text", model=folder)` works, the mask VQ-VAE, captioners, and what SigLIP 2's stage trains.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from openpali._support import warn_unsupported
from openpali._version import __version__
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig, CaptionerConfig
from openpali.modeling.captioner.modeling_caption_decoder import CaptionDecoder
from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.modeling.configuration_pali3 import Pali3Config
from openpali.modeling.configuration_paligemma import PaliGemmaNaflexConfig
from openpali.modeling.export import export
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.modeling.modeling_pali3 import Pali3ForConditionalGeneration, Pali3Model
from openpali.modeling.modeling_pali3_multimodal import Pali3ForMultimodalLM
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.modeling_paligemma_naflex import PaliGemmaNaflexForConditionalGeneration
from openpali.modeling.processing_pali3 import Pali3Processor
from openpali.modeling.processing_paligemma_naflex import PaliGemmaNaflexProcessor
from openpali.modeling.self_distillation.configuration_siglip_pretraining import SiglipPretrainingConfig
from openpali.modeling.self_distillation.modeling_siglip_pretraining import SiglipForPretraining
from openpali.modeling.shipped import shipped

AutoConfig.register(Pali3Config.model_type, Pali3Config, exist_ok=True)
AutoModel.register(Pali3Config, Pali3Model, exist_ok=True)
AutoModelForImageTextToText.register(Pali3Config, Pali3ForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(Pali3Config, Pali3ForMultimodalLM, exist_ok=True)
AutoProcessor.register(Pali3Config, Pali3Processor, exist_ok=True)
AutoConfig.register(PaliGemmaNaflexConfig.model_type, PaliGemmaNaflexConfig, exist_ok=True)
AutoModelForImageTextToText.register(PaliGemmaNaflexConfig, PaliGemmaNaflexForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(PaliGemmaNaflexConfig, PaliGemmaNaflexForConditionalGeneration, exist_ok=True)
AutoProcessor.register(PaliGemmaNaflexConfig, PaliGemmaNaflexProcessor, exist_ok=True)
AutoConfig.register(MaskVQVAEConfig.model_type, MaskVQVAEConfig, exist_ok=True)
AutoModel.register(MaskVQVAEConfig, MaskVQVAE, exist_ok=True)
AutoConfig.register(CaptionDecoderConfig.model_type, CaptionDecoderConfig, exist_ok=True)
AutoModel.register(CaptionDecoderConfig, CaptionDecoder, exist_ok=True)
AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
AutoModel.register(CaptionerConfig, Captioner, exist_ok=True)
AutoConfig.register(SiglipPretrainingConfig.model_type, SiglipPretrainingConfig, exist_ok=True)
AutoModel.register(SiglipPretrainingConfig, SiglipForPretraining, exist_ok=True)

warn_unsupported()

__all__ = [
    "CaptionDecoder",
    "CaptionDecoderConfig",
    "Captioner",
    "CaptionerConfig",
    "MaskVQVAE",
    "Pali3Config",
    "Pali3ForConditionalGeneration",
    "Pali3Processor",
    "PaliGemmaForConditionalGeneration",
    "PaliGemmaNaflexConfig",
    "PaliGemmaNaflexForConditionalGeneration",
    "PaliGemmaNaflexProcessor",
    "__version__",
    "export",
    "shipped",
]
