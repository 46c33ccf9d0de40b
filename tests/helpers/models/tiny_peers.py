"""Tiny random models of other families, of Transformers' own classes."""

from typing import Any

import torch
from tiny_models import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

SIDE, PATCH = 16, 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SIZE = {"height": SIDE, "width": SIDE}
LANGUAGE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer_of(*marks: str, words: tuple[str, ...] = (), **named: str) -> PreTrainedTokenizerFast:
    """One token a word or mark; marks may stand in the middle of a word, and some have names."""
    vocabulary = {
        word: i for i, word in enumerate(dict.fromkeys(["<pad>", "<eos>", "<bos>", "<unk>", *WORDS, *words]))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, extra_special_tokens=named)
    if marks:
        made.add_special_tokens({"additional_special_tokens": list(marks)}, replace_extra_special_tokens=False)
    return made


def starting(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, which now writes the start token before a text."""
    start = [("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=start)
    return tokenizer


def text_options(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def tiny_florence() -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Its answers are words and places."""
    torch.manual_seed(0)
    places = tuple(f"<loc_{i}>" for i in range(0, 1000, 100))
    tokenizer = tokenizer_of(words=places, image_token="<image>")
    images = CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    # four stages halve the side each; the average of all places is a token of its own
    images.image_seq_length = 2
    kinds = (
        "pure_text",
        "description_with_bboxes",
        "phrase_grounding",
        "polygons",
        "description_with_bboxes_or_polygons",
    )
    processor = Florence2Processor(images, tokenizer, post_processor_config={kind: {} for kind in kinds})
    vision = Florence2VisionConfig(
        depths=(1, 1), patch_size=(7, 3), patch_stride=(4, 4), patch_padding=(3, 1), patch_prenorm=(False, True),
        embed_dim=(8, 16), num_heads=(2, 2), num_groups=(2, 2), window_size=4, projection_dim=16,
        max_temporal_embeddings=2, max_position_embeddings=4,
    )  # fmt: skip
    text = BartConfig(
        **text_options(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
        decoder_start_token_id=2, forced_eos_token_id=None, init_std=1.0,
    )  # fmt: skip
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id)
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 2
    return model, processor


def tiny_chameleon() -> tuple[ChameleonForConditionalGeneration, ChameleonProcessor]:
    """Its images are tokens of the vocabulary."""
    torch.manual_seed(0)
    codes = tuple(f"IMGIMG{letter}Z" for letter in "ABCDEFGH")
    tokenizer = tokenizer_of("<image>", "<racm3:break>", "<eoss>", "<sep>", words=codes)
    tokenizer.sep_token = "<sep>"
    images = ChameleonImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIZE)
    processor = ChameleonProcessor(images, tokenizer, image_seq_length=IMAGE_TOKENS)
    codec = {
        "embed_dim": 8, "num_embeddings": 8, "latent_channels": 8, "resolution": SIDE, "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
    }  # fmt: skip
    config = ChameleonConfig(
        **text_options(tokenizer), **LANGUAGE, num_key_value_heads=1, vq_config=codec, max_position_embeddings=128,
        vocabulary_map=tokenizer.get_vocab(), initializer_range=1.0,
    )  # fmt: skip
    return ChameleonForConditionalGeneration(config), processor


def tiny_kosmos() -> tuple[Kosmos2ForConditionalGeneration, Kosmos2Processor]:
    """Its boxes are pairs of patches."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of()
    images = CLIPImageProcessorPil(size=SIZE, crop_size=SIZE, do_center_crop=False)
    # 1,024 patches and 64 queries, since its folder does not say their numbers
    processor = Kosmos2Processor(images, tokenizer)
    text = {
        **text_options(tokenizer), "embed_dim": 16, "layers": 1, "ffn_dim": 32, "attention_heads": 2, "init_std": 1.0,
        "max_position_embeddings": 128,
    }  # fmt: skip
    vision = {**LANGUAGE, "image_size": SIDE, "patch_size": PATCH}
    config = Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=64)
    return Kosmos2ForConditionalGeneration(config), processor


def tiny_blip2() -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """Queries of a Q-Former before an OPT."""
    torch.manual_seed(0)
    tokenizer = starting(tokenizer_of())
    processor = Blip2Processor(BlipImageProcessorPil(size=SIZE), tokenizer, num_query_tokens=IMAGE_TOKENS)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**LANGUAGE, image_size=SIDE, patch_size=PATCH),
        qformer_config=Blip2QFormerConfig(**LANGUAGE, vocab_size=len(tokenizer), encoder_hidden_size=16),
        text_config=opt_config(tokenizer),
        num_query_tokens=IMAGE_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Blip2ForConditionalGeneration(config), processor


def tiny_instruct_blip() -> tuple[InstructBlipForConditionalGeneration, InstructBlipProcessor]:
    """The same whose Q-Former reads the prompt too."""
    torch.manual_seed(0)
    tokenizer = starting(tokenizer_of())
    images = BlipImageProcessorPil(size=SIZE)
    processor = InstructBlipProcessor(images, tokenizer, tokenizer_of(), num_query_tokens=IMAGE_TOKENS)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**LANGUAGE, image_size=SIDE, patch_size=PATCH),
        qformer_config=InstructBlipQFormerConfig(**LANGUAGE, vocab_size=len(tokenizer), encoder_hidden_size=16),
        text_config=opt_config(tokenizer),
        num_query_tokens=IMAGE_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return InstructBlipForConditionalGeneration(config), processor


def opt_config(tokenizer: PreTrainedTokenizerFast) -> OPTConfig:
    return OPTConfig(
        **text_options(tokenizer), hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=16, max_position_embeddings=128, init_std=1.0,
    )  # fmt: skip


def tiny_idefics() -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """A chat model whose template begins with the start token."""
    torch.manual_seed(0)
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>")
    tokenizer = tokenizer_of(*marks)
    template = (
        "<bos>{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% if add_generation_prompt %} answer{% endif %}"
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=template)
    vision = {**LANGUAGE, "image_size": SIDE, "patch_size": PATCH}
    text = {"model_type": "llama", **text_options(tokenizer), **LANGUAGE, "initializer_range": 1.0}
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Idefics3ForConditionalGeneration(config), processor


PEERS = {
    "florence2": tiny_florence,
    "chameleon": tiny_chameleon,
    "kosmos-2": tiny_kosmos,
    "blip-2": tiny_blip2,
    "instructblip": tiny_instruct_blip,
    "idefics3": tiny_idefics,
}
