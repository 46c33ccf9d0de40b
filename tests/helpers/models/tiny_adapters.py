"""Tiny checkpoints of both families on disk, and adapters on them that answer differently from their base."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from tiny_pali3 import TEXT, VISION
from tiny_paligemma import IMAGE_TOKENS, SIDE, tiny_paligemma, tiny_paligemma_processor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.eval.answering.load_model import adapter_parameters, finish_adapters
from openpali.modeling.auto import load_processor
from openpali.recipes.start.adapters import AdapterArguments, load_for_training

FAMILIES = ["pali3", "paligemma"]
KINDS = ["lora", "qlora", "dora"]
CPU = torch.device("cpu")


def save_checkpoint(family: str, tokenizer: Any, folder: Path, side: int = SIDE) -> Path:
    """A model and its processor; T5 with `wo` layers, untied, with dropout in the text model.

    Images of any side are four patches.
    """
    if family == "paligemma":
        processor: Any = tiny_paligemma_processor(tokenizer, side)
        model = tiny_paligemma("gemma", processor)
    else:
        image_processor = SiglipImageProcessorPil(size={"height": side, "width": side})
        processor = Pali3Processor(image_processor, tokenizer, image_seq_length=IMAGE_TOKENS)
        text = TEXT["t5"] | {"vocab_size": len(tokenizer), "dropout_rate": 0.1, "num_layers": 1}
        text |= {"num_decoder_layers": 1}
        torch.manual_seed(1)
        vision = VISION | {"num_hidden_layers": 1, "image_size": side, "patch_size": side // 2}
        config = Pali3Config(vision_config=vision, text_config=text, image_token_id=processor.image_token_id)
        model = Pali3ForConditionalGeneration(config)
        torch.nn.init.normal_(model.model.encoder.projector.output.weight, std=0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def adapted_model(checkpoint: Path, kind: str, freeze: tuple[str, ...] = (), **options: Any) -> Any:
    """As the recipe loads it, in evaluation mode."""
    run: Any = SimpleNamespace(device=CPU, freeze=list(freeze), say=print, incomplete_checkpoint=False)
    args = AdapterArguments(peft=kind, **{"lora_rank": 2, "lora_alpha": 4, **options})  # type: ignore[arg-type]
    torch.manual_seed(2)
    return load_for_training(str(checkpoint), args, "auto", run).eval()


def save_adapters(checkpoint: Path, kind: str, folder: Path) -> Any:
    """Adapters as after some training, saved with the processor as a run does; returns their model."""
    model = adapted_model(checkpoint, kind)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapter_parameters(model).items():
        if "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.rand(parameter.shape, generator=generator)
        else:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.3
    model.save_pretrained(folder)
    finish_adapters(model, folder)
    load_processor(checkpoint).save_pretrained(folder)
    return model


def training_batch(checkpoint: Path) -> Any:
    """Two examples of different lengths."""
    images = [Image.new("RGB", (20, 24), "red"), Image.new("RGB", (30, 20), "lime")]
    texts, suffixes = ["what is this", "caption en"], ["a red dog", "two green cats and a dog"]
    return load_processor(checkpoint)(images=images, text=texts, suffix=suffixes, return_tensors="pt", padding=True)


def loss(model: Any, batch: Any) -> torch.Tensor:
    """Of a model of ours; without a graph."""
    with torch.no_grad():
        return model(**batch).loss


def answer_logits(model: Any, checkpoint: Path) -> torch.Tensor:
    """Of a prompt, by stock classes too."""
    image = Image.new("RGB", (20, 24), "red")
    inputs = load_processor(checkpoint)(images=[[image]], text=["what is this"], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits
