"""Tiny encoder-decoders that have learnt a few answers by heart, saved with their tokenizers."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

MOST_STEPS = 600


def taught_t5(folder: Path, pairs: dict[str, str]) -> str:
    """A T5 that writes the value of each key; one token a word."""
    words = sorted({word for text in [*pairs, *pairs.values()] for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    torch.manual_seed(0)
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **size)
    model = T5ForConditionalGeneration(config)
    rows = [(tokenizer(prompt)["input_ids"], tokenizer(text)["input_ids"]) for prompt, text in pairs.items()]
    return saved(folder, model, tokenizer, rows, 0, 0)


def taught_nllb(folder: Path, pairs: dict[tuple[str, str, str], str]) -> str:
    """An NLLB that writes the value of each (source language, target language, text)."""
    texts = [text for *_, text in pairs] + list(pairs.values())
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    core.train_from_iterator(texts * 4, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    content = json.loads(core.to_str())["model"]
    merges = [tuple(one) for one in content["merges"]]
    tokenizer = NllbTokenizer(vocab=content["vocab"], merges=merges, model_max_length=64)
    torch.manual_seed(0)
    size = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    size |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
    size |= {"activation_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    config = M2M100Config(vocab_size=len(tokenizer), max_position_embeddings=64, **size)
    model = M2M100ForConditionalGeneration(config)
    # as published models have it: beams, and an end that is forced where the length is used up
    model.generation_config.update(num_beams=5, early_stopping=True, max_length=200, forced_eos_token_id=2)
    rows = []
    for (source, target, text), translation in pairs.items():
        tokenizer.src_lang, tokenizer.tgt_lang = source, target
        rows.append((tokenizer(text)["input_ids"], tokenizer(text_target=translation)["input_ids"]))
    return saved(folder, model, tokenizer, rows, 1, 1)


def saved(
    folder: Path, model: Any, tokenizer: Any, rows: list[tuple[list[int], list[int]]], padding: int, given: int
) -> str:
    """Train until every target is by far the likeliest, and save; `given` are tokens that generation is given."""

    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        longest = max(map(len, lists))
        return torch.tensor([one + [value] * (longest - len(one)) for one in lists])

    inputs = padded([one for one, _ in rows], padding)
    labels = padded([other for _, other in rows], -100)
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    batch = {"decoder_input_ids": torch.cat([start, labels[:, :-1].clamp(min=0)], 1), "input_ids": inputs}
    labels[:, :given] = -100
    batch |= {"attention_mask": (inputs != padding).long(), "labels": labels}
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for _ in range(MOST_STEPS):
        loss = model(**batch).loss
        if loss.item() < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        raise AssertionError(f"it has not learnt its answers: the loss is {loss.item():.2f}")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
