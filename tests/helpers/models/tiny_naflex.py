"""Tiny random PaLI models whose image encoder takes images of any aspect ratio, their processors, and examples.

Images have between 1 and 9 patches of 4 pixels.
"""

from typing import Any

import torch
from PIL import Image
from tiny_paligemma import TEXT, with_bos
from transformers import Siglip2Config, Siglip2Model
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.example import Example
from openpali.modeling.configuration_paligemma import paligemma_config
from openpali.modeling.modeling_paligemma_naflex import PaliGemmaNaflexForConditionalGeneration
from openpali.modeling.processing_paligemma_naflex import PaliGemmaNaflexProcessor

PATCH, MOST, GRID = 4, 9, 3
SIZES: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"model_type": "siglip2_vision_model", "num_patches": GRID**2, "patch_size": PATCH}

# width and height
SHAPES = [(24, 24), (60, 12), (11, 50), (30, 20), (5, 90)]


def noise(width: int, height: int, seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator).byte().numpy())


IMAGES = [noise(*shape, seed) for seed, shape in enumerate(SHAPES)]
PREFIXES = ["what is this", "caption en", "detect dog", "two green cats what is this caption en", "a"]
SUFFIXES = ["a red dog", "two green cats and a dog", "dog", "en", "red dog"]
EXAMPLES = [Example(str(i), "plain", (IMAGES[i],), PREFIXES[i], SUFFIXES[i]) for i in range(5)]
# several images, and a text alone
EXAMPLES += [
    Example("5", "plain", (IMAGES[4], IMAGES[0], IMAGES[1]), "a dog", "en"),
    Example("6", "plain", (), "a", "en"),
]


def image_processor(most: int = MOST) -> Any:
    found: Any = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=most)
    found.image_seq_length = most
    return found


def randomise(model: Any) -> Any:
    """Weights large enough for every part to matter, the projector too."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def naflex_paligemma(tokenizer: Any, kind: str = "gemma", most: int = MOST, **fields: Any) -> tuple[Any, Any]:
    """Model in evaluation mode and processor."""
    torch.manual_seed(3)
    processor = PaliGemmaNaflexProcessor(image_processor(most), with_bos(tokenizer))
    words: Any = processor.tokenizer
    text = TEXT[kind] | {"vocab_size": len(words), "bos_token_id": words.bos_token_id}
    config = paligemma_config(VISION, text, image_token_id=processor.image_token_id, **fields)
    return randomise(PaliGemmaNaflexForConditionalGeneration(config)), processor  # type: ignore[arg-type]


def naflex_pali3(tokenizer: Any, most: int = MOST, **fields: Any) -> tuple[Any, Any]:
    """Model in evaluation mode and processor."""
    torch.manual_seed(3)
    processor = Pali3Processor(image_processor(most), tokenizer, image_seq_length=most)
    text = {"model_type": "t5", "vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
    text |= {"num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0, "bos_token_id": 0}
    text |= {"dropout_rate": 0.0}
    config = Pali3Config(vision_config=VISION, text_config=text, image_token_id=processor.image_token_id, **fields)
    return randomise(Pali3ForConditionalGeneration(config)), processor


FAMILIES = {"paligemma": naflex_paligemma, "pali3": naflex_pali3}


def naflex_siglip(folder: Any, tokenizer: Any) -> Any:
    """Save a stock Siglip2Model with its image processor and a tokenizer in a folder."""
    torch.manual_seed(4)
    text = SIZES | {"vocab_size": len(tokenizer), "projection_size": 24, "max_position_embeddings": 8}
    vision = {key: value for key, value in VISION.items() if key != "model_type"}
    randomise(Siglip2Model(Siglip2Config(vision_config=vision, text_config=text))).save_pretrained(folder)
    image_processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
