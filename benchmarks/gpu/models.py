"""Random models in bfloat16 with the shapes of the published ones, and toys of the same form."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PaliGemmaForConditionalGeneration as Stock
from transformers import SiglipConfig

from openpali import Pali3Config, Pali3ForConditionalGeneration
from openpali.modeling.configuration_paligemma import paligemma_preset
from openpali.modeling.four_bit import four_bit_config, load_four_bit
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning, siglip_preset
from openpali.recipes.start.adapters import AdapterArguments, add_adapters

TINY_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_GEMMA = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_T5 = {"d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
TINY_VOCABULARY, VOCABULARY = 2048, 257_216
# the table's last rows are those of added tokens, <image> among them
ADDED = 64


def paligemma_config_of(resolution: int, tiny: bool) -> Any:
    """The configuration of PaliGemma-3B at a resolution in pixels, or of a toy."""
    vision: dict[str, Any] = {"patch_size": 14, "vision_use_head": False} | (TINY_VISION if tiny else {})
    text = {"vocab_size": TINY_VOCABULARY if tiny else VOCABULARY} | (TINY_GEMMA if tiny else {})
    image_token = text["vocab_size"] - ADDED
    fields: dict[str, Any] = {"vision_config": vision, "text_config": text, "image_token_id": image_token}
    return paligemma_preset("3b", resolution, **fields, attn_implementation="sdpa")


def new_paligemma(
    kind: str, resolution: int, tiny: bool, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> Any:
    """A PaliGemma as a recipe has it.

    Args:
        kind: `stock` (Transformers' class), `full` (ours), `lora` or `qlora`.
        resolution: in pixels.
        tiny: a toy.
        device: of the weights.
        dtype: of the weights.
    """
    config = paligemma_config_of(resolution, tiny)
    with device:
        model: Any = (Stock if kind == "stock" else PaliGemmaForConditionalGeneration)(config).to(dtype)
    # a new projector is zero, and hides the image
    torch.nn.init.normal_(model.model.multi_modal_projector.linear.weight, std=0.02)
    if kind == "qlora":
        folder = Path(tempfile.mkdtemp())
        model.save_pretrained(folder)
        del model
        model = load_four_bit(PaliGemmaForConditionalGeneration, str(folder), four_bit_config(torch.bfloat16), device)
        shutil.rmtree(folder)
    if kind in ("lora", "qlora"):
        add_adapters(model, AdapterArguments(peft=kind), freeze=[])
    return model.train()


def new_pali3(tiny: bool, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """PaLI-3 5B at 224 px as in stage 1, its image encoder frozen."""
    config = Pali3Config.from_preset("5b")
    fields: Any = config.to_dict()
    fields["vision_config"] |= TINY_VISION if tiny else {}
    fields["text_config"] |= (TINY_T5 | {"vocab_size": TINY_VOCABULARY}) if tiny else {}
    fields["image_token_id"] = fields["text_config"]["vocab_size"] - ADDED
    with device:
        model: Any = Pali3ForConditionalGeneration(Pali3Config(**fields)).to(dtype)
    model.model.encoder.vision_tower.requires_grad_(False)
    return model.train()


def new_siglip(tiny: bool, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """SigLIP B/16 at 224 px with its text tower of 32k tokens."""
    sizes = siglip_preset("nano" if tiny else "b16")
    sizes["text_config"]["vocab_size"] = TINY_VOCABULARY if tiny else 32_000
    with device:
        return SiglipForContrastiveLearning.from_towers(SiglipConfig(**sizes)).to(dtype).train()
