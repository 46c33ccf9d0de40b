"""A random SigLIP of both towers, its processor, and coloured images with texts in two languages."""

import torch
from PIL import Image
from transformers import SiglipConfig, SiglipModel, SiglipProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.modeling_siglip2 import to_naflex

SIDE, PATCH, TEXT_LENGTH = 16, 8, 8
COLOURS = {"red": "rot", "blue": "blau", "white": "weiss", "black": "schwarz", "yellow": "gelb"}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = SIZES | {"image_size": SIDE, "patch_size": PATCH}


def tiny_siglip(seed=0, **vision):
    """Model in evaluation mode and processor."""
    tokenizer = train_tokenizer([*COLOURS, *COLOURS.values(), "an image of"] * 4, vocab_size=300)
    text = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LENGTH, "projection_size": 16}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(vision_config=VISION | vision, text_config=text)).eval()
    # the stock initialisation is so small that all images look alike
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return model, SiglipProcessor(image_processor, tokenizer)


def random_images(count=5, side=20):
    """Plain ones, each of its own colour."""
    return [Image.new("RGB", (side, side), (37 * i % 256, 91 * i % 256, 53 * i % 256)) for i in range(1, count + 1)]


def save_square_and_naflex(folder):
    """Save a model in `folder`/square, and as NaFlex with 12 image tokens in `folder`/naflex; returns the latter."""
    square, processor = tiny_siglip()
    square.save_pretrained(folder / "square")
    processor.save_pretrained(folder / "square")
    model, own = to_naflex(square), NaFlexImageProcessor(patch_size=PATCH, max_num_patches=12)
    model.save_pretrained(folder / "naflex")
    SiglipProcessor(own, processor.tokenizer).save_pretrained(folder / "naflex")
    return model, own
