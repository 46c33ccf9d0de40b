"""Tiny models with random weights, and a task and images for them."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali.data.example import Box, Example
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.configuration_pali3 import Pali3Config
from openpali.modeling.modeling_pali3 import Pali3ForConditionalGeneration
from openpali.modeling.processing_pali3 import Pali3Processor

SIDE, PATCH = 16, 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2
VOCABULARY = "what is this at the left right top bottom dog cat bus none one two three answer en detect caption a"
WORDS = VOCABULARY.split()
COLOURS = ("red", "lime", "blue", "yellow", "white", "black", "purple", "orange")


@dataclass(frozen=True)
class NamingTask:
    """A task for evaluation."""

    name: str = "naming"
    metric: str = "exact_match"
    metric_key: str = "exact_match"
    max_new_tokens: int = 6

    def example(self, record: dict[str, Any], rng: Any) -> Example | None:
        """Unused: the tests make their own examples."""
        return None

    def prediction(self, text: str, example: Example) -> str:
        return text

    def reference(self, example: Example) -> list[str]:
        return list(example.references)


def examples(count: int = 8) -> list[Example]:
    """Images of different colours and sizes with prompts of different lengths, in no order of length."""
    made = []
    for i in range(count):
        prefix = " ".join((WORDS * 2)[i : i + 1 + (i * 5) % 7])
        image = Image.new("RGB", (20 + i, 24), COLOURS[i % len(COLOURS)])
        boxes = (Box(0.1, 0.2, 0.5, 0.6, "dog"),)
        made.append(Example(f"id-{i}", "naming", (image,), prefix, "dog", ("dog", "hound"), boxes))
    return made


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, with the special tokens of Gemma and no template."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<image>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def vision_config() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }


def tiny_paligemma() -> tuple[PaliGemmaForConditionalGeneration, PaliGemmaProcessor]:
    """Stock PaliGemma."""
    torch.manual_seed(0)
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    image_processor.image_seq_length = IMAGE_TOKENS
    processor = PaliGemmaProcessor(image_processor, word_tokenizer())
    text = GemmaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        initializer_range=1.0,
    )
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**vision_config(), initializer_range=1.0),
        text_config=text,
        image_token_id=processor.image_token_id,
        projection_dim=16,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def tiny_llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Stock LLaVA: a chat model, so its prompts need a template."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image> "
        "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}answer{% endif %}"
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=False
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=1.0,
    )
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**vision_config()),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), processor


def tiny_pali3() -> tuple[Pali3ForConditionalGeneration, Pali3Processor]:
    """Our encoder-decoder, with a random projector, since a new one is zero and ignores images."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, 300)
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = Pali3Processor(image_processor, tokenizer, image_seq_length=IMAGE_TOKENS)
    text = {
        "model_type": "t5",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "decoder_start_token_id": 0,
        "bos_token_id": 0,
    }
    config = Pali3Config(vision_config=vision_config(), text_config=text, image_token_id=processor.image_token_id)
    model = Pali3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.encoder.projector.output.weight)
    # with tied embeddings a random decoder repeats its last token, which would be the start token, for ever
    with torch.no_grad():
        model.get_input_embeddings().weight[config.decoder_start_token_id] = 0
    return model, processor


MODELS = {"paligemma": tiny_paligemma, "llava": tiny_llava, "pali3": tiny_pali3}
