"""Random PaliGemmas on disk in the layout of the published checkpoints, with a processor that every release reads."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PaliGemmaConfig, PreTrainedTokenizerFast

from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.modeling.processing_tokenizer import IMAGE_TOKEN, LOCATION_TOKENS, SEGMENTATION_TOKENS
from peers.records import ANSWERS, PROMPTS, words

MARKS = ["<pad>", "<eos>", "<bos>", "<unk>", "\n"]
# the vocabulary of the published checkpoints, where memory is measured
VOCABULARY = 257_216


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; a newline is a token, as Gemma's tokenizer has it."""
    vocabulary = {word: i for i, word in enumerate([*MARKS, *words(PROMPTS + ANSWERS)])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    split: Any = pre_tokenizers.Split
    made.pre_tokenizer = pre_tokenizers.Sequence([split(Regex(" +"), "removed"), split("\n", "isolated")])  # type: ignore
    made.add_tokens([AddedToken(token, normalized=False) for token in LOCATION_TOKENS + SEGMENTATION_TOKENS])
    made.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named, clean_up_tokenization_spaces=False)


def config(side: int, patch: int, rows: int, width: int, image_token: int) -> PaliGemmaConfig:
    """A Gemma of two layers behind a SigLIP of two layers."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": side, "patch_size": patch, "vision_use_head": False}
    vision |= {"projection_dim": width, "num_image_tokens": (side // patch) ** 2}
    text = {"model_type": "gemma", "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": rows}
    text |= {"num_image_tokens": (side // patch) ** 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    marks = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    sizes = {"projection_dim": width, "hidden_size": width, "image_token_id": image_token}
    return PaliGemmaConfig(vision_config=vision, text_config=text, **sizes, **marks)


def save_checkpoint(folder: Path, side: int = 16, patch: int = 8, rows: int | None = None, width: int = 32) -> None:
    """Write a model, whose weights are large enough for every part to matter, and its processor."""
    words_of = tokenizer()
    torch.manual_seed(0)
    image_token: Any = words_of.convert_tokens_to_ids(IMAGE_TOKEN)
    made = config(side, patch, rows or len(words_of), width, image_token)
    model: Any = PaliGemmaForConditionalGeneration(made)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, save_original_format=True)
    words_of.save_pretrained(folder)
    # the names of the published files
    options: dict[str, Any] = {"do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True}
    options |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 3}
    options |= {"image_processor_type": "SiglipImageProcessor", "processor_class": "PaliGemmaProcessor"}
    options |= {"size": {"height": side, "width": side}, "image_seq_length": (side // patch) ** 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(options, indent=2))
    path = folder / "tokenizer_config.json"
    kept = json.loads(path.read_text()) | {"processor_class": "PaliGemmaProcessor"}
    path.write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))
