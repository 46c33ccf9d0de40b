"""PaLI-3 and PaliGemma with images of any aspect ratio: a batch gives what its examples give one by one."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from tiny_naflex import EXAMPLES, FAMILIES, IMAGES, MOST, PATCH, naflex_siglip
from tiny_paligemma import TEXT, tiny_paligemma, tiny_paligemma_processor, with_bos
from tolerances import assert_same_but_rounding, assert_same_gradients
from transformers import AutoModelForImageTextToText, AutoProcessor, GemmaConfig, GemmaForCausalLM

from openpali import PaliGemmaForConditionalGeneration, PaliGemmaNaflexConfig, PaliGemmaNaflexForConditionalGeneration
from openpali.data.collator import Collator
from openpali.modeling.auto import check_tokens, load_answering, load_processor
from openpali.modeling.export import export
from openpali.modeling.image_patches import patches_of_sizes
from openpali.modeling.processing_paligemma import PaliGemmaProcessor
from openpali.modeling.processing_paligemma_naflex import PaliGemmaNaflexProcessor
from openpali.modeling.resolution import set_image_tokens, set_resolution
from openpali.modeling.user_errors import CheckpointError

KINDS = [("paligemma", {}), ("paligemma", {"kind": "gemma2"}), ("pali3", {}), ("pali3", {"image_positions": "sine"})]
GRIDS = [[3, 3], [1, 5], [5, 1], [2, 3], [9, 1]]


@pytest.fixture
def make(tiny_tokenizer):
    return lambda family, **fields: FAMILIES[family](copy.deepcopy(tiny_tokenizer), **fields)


def step(model, batch):
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    return outputs.example_losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_an_image_has_as_many_placeholders_as_patches(make, family):
    model, processor = make(family)
    batch = Collator(processor)(EXAMPLES)
    assert batch["spatial_shapes"].tolist() == [*GRIDS, GRIDS[4], GRIDS[0], GRIDS[1]]
    found = (batch["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert found == [9, 5, 5, 6, 9, 9 + 9 + 5, 0]
    assert batch["pixel_values"].shape == (8, MOST, 3 * PATCH**2)
    if family == "paligemma":
        # the whole prefix is one bidirectional block, and padding is not seen
        ends = [row.tolist().index(1) for row in batch["token_type_ids"]]
        text = [int((row == processor.tokenizer.bos_token_id).nonzero()[0]) for row in batch["input_ids"]]
        assert text == found
        assert all(end > start for end, start in zip(ends, text))
    sizes = [image.size[::-1] for image in IMAGES]
    assert patches_of_sizes(processor.image_processor, sizes) == [9, 5, 5, 6, 9]
    assert processor._get_num_multimodal_tokens(sizes).num_image_tokens == [9, 5, 5, 6, 9]
    assert {"pixel_attention_mask", "spatial_shapes"} < set(processor.model_input_names)


@pytest.mark.parametrize(("family", "fields"), KINDS)
def test_losses_and_gradients_of_a_batch_are_those_of_its_examples(make, family, fields):
    model, processor = make(family, **fields)
    losses, gradients = step(model, Collator(processor)(EXAMPLES))
    each = [step(model, Collator(processor)([example])) for example in EXAMPLES]
    assert_same_but_rounding(losses, torch.cat([loss for loss, _ in each]))
    names = set().union(*(found for _, found in each))
    zero = torch.zeros(())
    means = {
        n: torch.stack([f[n] if n in f else zero.expand_as(gradients[n]) for _, f in each]).mean(0) for n in names
    }
    assert_same_gradients(gradients, means)
    assert gradients[next(name for name in gradients if "vision_tower" in name)].abs().max() > 0


@pytest.mark.parametrize(("family", "fields"), KINDS[:3])
def test_answers_of_a_batch_are_those_of_its_examples(make, family, fields):
    model, processor = make(family, **fields)
    prompts = [Collator(processor, generation=True)(examples) for examples in (EXAMPLES, *[[e] for e in EXAMPLES])]
    options = {"max_new_tokens": 5, "do_sample": False}
    answers = []
    for prompt in prompts:
        ids = model.generate(**prompt, **options)
        beams = model.generate(**prompt, **options, num_beams=2) if len(prompt["input_ids"]) == 1 else None
        start = 0 if family == "pali3" else prompt["input_ids"].shape[1]
        answers.append(ids[:, start:].tolist())
        assert beams is None or beams.shape[0] == 1
    assert answers[0] == [answer for found in answers[1:] for answer in found]
    assert len({tuple(answer) for answer in answers[0]}) > 3
    logits = model(**prompts[0]).logits[:, -1] if family == "paligemma" else None
    if logits is not None:
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-4


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("as_features", [False, True])
def test_beams_see_all_images_of_their_example(make, tiny_tokenizer, square, as_features):
    model, processor = make("paligemma")
    if square:
        processor = tiny_paligemma_processor(tiny_tokenizer)
        model = tiny_paligemma("gemma", processor)
    prompts = []
    for examples in (EXAMPLES[4:], EXAMPLES[5:6]):
        prompt = dict(Collator(processor, generation=True)(examples))
        if as_features:
            images = {name: prompt.pop(name) for name in processor.image_input_names() if name != "spatial_shapes"}
            shapes = {} if square else {"spatial_shapes": prompt["spatial_shapes"]}
            prompt["image_features"] = model.get_encoder(modality="image")(**images, **shapes).last_hidden_state
        prompts.append(prompt)
    options = {"num_beams": 3, "max_new_tokens": 4, "return_dict_in_generate": True, "output_scores": True}
    several, alone = (model.generate(**prompt, **options) for prompt in prompts)
    assert_same_but_rounding(several.sequences_scores[1], alone.sequences_scores[0])
    ids, start = alone.sequences, prompts[1]["input_ids"].shape[1]
    # the answer's probability by a plain forward
    whole = prompts[1] | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole["token_type_ids"] = torch.zeros_like(ids)
    whole["token_type_ids"][:, start:] = 1
    with torch.no_grad():
        log_p = model(**whole).logits[:, start - 1 : -1].log_softmax(-1).gather(-1, ids[:, start:, None]).sum()
    assert_same_but_rounding(alone.sequences_scores[0] * (ids.shape[1] - start), log_p)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_padding_of_patches_changes_nothing(make, family):
    model, processor = make(family)
    batch = dict(Collator(processor)(EXAMPLES))
    with torch.no_grad():
        expected = model(**batch).example_losses
        padding = batch["pixel_attention_mask"] == 0
        assert padding.any()
        batch["pixel_values"][padding] = 7.0
        assert_same_but_rounding(model(**batch).example_losses, expected)
        features = model.get_encoder(modality="image")(**{n: batch[n] for n in processor.image_input_names()})
        images = [batch.pop(name) for name in ("pixel_values", "pixel_attention_mask")]
        found = model(**batch, image_features=features.last_hidden_state)
        assert_same_but_rounding(found.example_losses, expected)
        batch.pop("spatial_shapes")
        for wrong in ({"pixel_values": images[0]}, {"image_features": features.last_hidden_state}):
            with pytest.raises(ValueError, match="spatial_shapes"):
                model(**batch, **wrong)


@pytest.mark.parametrize("pack_length", [20, 40, 200])
def test_packed_rows_are_the_padded_batch(make, pack_length):
    model, processor = make("paligemma", kind="gemma2")
    packed = Collator(processor, pack_length=pack_length)(EXAMPLES)
    assert len(packed["input_ids"]) < len(EXAMPLES)
    model(**packed)
    losses, gradients = step(model, Collator(processor)(EXAMPLES))
    packed_losses, packed_gradients = step(model, packed)
    assert_same_but_rounding(packed_losses.sort().values, losses.sort().values)
    assert_same_gradients(packed_gradients, gradients)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_more_tokens_without_training(make, family, tmp_path):
    model, processor = make(family)
    set_image_tokens(processor, 30)
    batch = Collator(processor)(EXAMPLES[:2])
    assert batch["spatial_shapes"].tolist() == [[5, 5], [2, 10]]
    assert model(**batch).loss.isfinite()
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = load_processor(tmp_path)
    assert type(again) is type(processor)
    assert again.image_seq_length == again.image_processor.max_num_patches == 30
    with torch.no_grad():
        assert_same_but_rounding(load_answering(tmp_path)(**Collator(again)(EXAMPLES[:2])).loss, model(**batch).loss)
    # as a user of Transformers, who has imported openpali
    plain = AutoProcessor.from_pretrained(tmp_path), AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert [type(part) for part in plain] == [type(processor), type(model)]
    with pytest.raises(ValueError, match="no side in pixels: give image_tokens"):
        set_resolution(model, processor, 32)


def test_square_images_have_no_tokens_to_choose(tiny_tokenizer, tiny_processor):
    for processor in (tiny_processor, tiny_paligemma_processor(tiny_tokenizer)):
        with pytest.raises(ValueError, match="every image a square of 16x16 pixels.*leave image_tokens out"):
            set_image_tokens(processor, 300)


def test_processor_and_encoder_of_different_kinds(make, tiny_tokenizer):
    model, processor = make("paligemma")
    square = tiny_paligemma_processor(tiny_tokenizer)
    with pytest.raises(CheckpointError, match="its processor makes square images, and its image encoder takes images"):
        check_tokens("folder", model, square)
    with pytest.raises(CheckpointError, match="makes images of any aspect ratio.*takes square images"):
        check_tokens("folder", tiny_paligemma("gemma", square), processor)
    batch = Collator(square)(EXAMPLES[:1])
    with pytest.raises(ValueError, match="takes images of any aspect ratio: pixel_values in patches"):
        model(**batch)


def test_from_backbones(make, tiny_tokenizer, tmp_path):
    vision, text = str(naflex_siglip(tmp_path / "vision", tiny_tokenizer)), str(tmp_path / "text")
    words = with_bos(tiny_tokenizer)
    GemmaForCausalLM(GemmaConfig(**TEXT["gemma"], vocab_size=len(words))).save_pretrained(text)
    words.save_pretrained(text)
    processor = PaliGemmaNaflexProcessor.from_backbones(vision, text)
    assert processor.image_seq_length == MOST
    model = PaliGemmaNaflexForConditionalGeneration.from_backbones(vision, text, processor)
    assert isinstance(model.config, PaliGemmaNaflexConfig)
    assert model(**Collator(processor)(EXAMPLES)).loss.isfinite()
    with pytest.raises(ValueError, match="call PaliGemmaNaflexProcessor"):
        PaliGemmaProcessor.from_backbones(vision, text)
    with pytest.raises(ValueError, match="paligemma_naflex, which is not PaliGemmaForConditionalGeneration's"):
        PaliGemmaForConditionalGeneration.from_backbones(vision, text, processor)


def test_configurations_that_do_not_fit(make):
    config = make("paligemma")[0].config.to_dict()
    with pytest.raises(ValueError, match="image_encoder: none reads square images"):
        PaliGemmaNaflexConfig(**config | {"image_encoder": "none"})
    vision = {"model_type": "siglip_vision_model"}
    with pytest.raises(ValueError, match="needs an image encoder siglip2_vision_model"):
        PaliGemmaNaflexConfig(**config | {"vision_config": vision})


PROGRAM = """
import sys
from PIL import Image
from transformers import AutoModelForMultimodalLM, pipeline

sys.modules["openpali"] = None
images = [Image.new("RGB", size, "red") for size in ((60, 12), (11, 50))]
for folder in sys.argv[1:]:
    ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True, device="cpu")
    found = ask(images=images, text=["what is this"] * 2, max_new_tokens=3, return_full_text=False)
    served = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
    print(type(ask.model).__name__, len(found), type(served).__name__)
"""


def test_exports_run_without_openpali(make, tmp_path):
    folders = [str(export(*make(family), tmp_path / family)) for family in FAMILIES]
    # an empty cache of remote code
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", PROGRAM, *folders]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    naflex = "PaliGemmaNaflexForConditionalGeneration"
    expected = [naflex, "2", naflex, "Pali3ForConditionalGeneration", "2", "Pali3ForMultimodalLM"]
    assert done.stdout.split() == expected
