import copy

import pytest
import torch
from tiny_pali3 import END, IMAGE, IMAGE_TOKENS, KINDS, PAD, SIDE, VOCABULARY, tiny_batch, tiny_pali3, without
from transformers import EncoderDecoderCache

NEW_TOKENS = 12


@pytest.fixture(params=KINDS)
def model(request):
    model = tiny_pali3(request.param)
    # never ends early, so that every step is compared; twelve steps are beyond T5Gemma's window of four
    model.generation_config.eos_token_id = None
    return model


def generate(model, batch, **options):
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": PAD} | options
    return model.generate(**without(batch, "labels"), **options)


def several_images():
    """The first example has two images, the second one; padded on the right."""
    batch = tiny_batch(examples=3)
    ids = torch.full((2, 14), PAD)
    words = batch["input_ids"][:, IMAGE_TOKENS:]
    ids[0] = torch.cat([torch.full((2 * IMAGE_TOKENS,), IMAGE), words[0]])
    ids[1, :10] = torch.cat([torch.full((IMAGE_TOKENS,), IMAGE), words[1]])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": batch["pixel_values"]}


def one_by_one():
    batch = several_images()
    for i, images in enumerate((slice(0, 2), slice(2, 3))):
        ids = batch["input_ids"][i : i + 1, : int(batch["attention_mask"][i].sum())]
        yield {"input_ids": ids, "pixel_values": batch["pixel_values"][images]}


def test_greedy_answers_follow_the_logits(model):
    """Against decoding by hand, without any cache."""
    batch = without(tiny_batch(), "labels")
    ids = torch.full((2, 1), model.config.decoder_start_token_id)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            logits = model(**batch, decoder_input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, batch), ids)
    assert torch.equal(generate(model, batch, use_cache=False), ids)
    assert len(ids.unique()) > 2


def test_cached_logits_equal_uncached_ones(model):
    batch = without(tiny_batch(), "labels")
    ids = torch.randint(3, 50, (2, NEW_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(**batch, decoder_input_ids=ids, use_cache=False)
        assert whole.past_key_values is None
        encoder_outputs = model.get_encoder()(**batch)
        cache, steps = None, []
        for i in range(NEW_TOKENS):
            outputs = model(
                encoder_outputs=encoder_outputs,
                attention_mask=batch["attention_mask"],
                decoder_input_ids=ids[:, i : i + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = outputs.past_key_values
            steps.append(outputs.logits)
    assert isinstance(cache, EncoderDecoderCache)
    torch.testing.assert_close(torch.cat(steps, 1), whole.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_side_does_not_change_the_answer(model, num_beams):
    right = several_images()
    order = torch.argsort(right["attention_mask"], dim=1, stable=True)
    left = {key: torch.gather(right[key], 1, order) for key in ("input_ids", "attention_mask")}
    assert left["input_ids"][1, 0] == PAD
    left["pixel_values"] = right["pixel_values"]
    expected = generate(model, right, num_beams=num_beams)
    assert torch.equal(generate(model, left, num_beams=num_beams), expected)
    alone = [generate(model, each, num_beams=num_beams) for each in one_by_one()]
    assert torch.equal(torch.cat(alone), expected)


def test_images_change_the_answer(model):
    batch = several_images()
    answers = generate(model, batch)
    other = generate(model, batch | {"pixel_values": -batch["pixel_values"]})
    assert not torch.equal(answers[0], other[0])
    assert not torch.equal(answers[1], other[1])


def test_beams_find_a_likelier_answer_and_return_several(model):
    batch = several_images()
    options = {"output_scores": True, "return_dict_in_generate": True, "length_penalty": 0.0, "max_new_tokens": 5}
    beams = generate(model, batch, num_beams=4, num_return_sequences=3, **options)
    assert beams.sequences.shape == (6, 6)
    scores = beams.sequences_scores.view(2, 3)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    torch.testing.assert_close(scores, log_probability(model, batch, beams.sequences, repeat=3), rtol=1e-4, atol=1e-4)
    greedy = generate(model, batch, max_new_tokens=5)
    assert (scores[:, 0] >= log_probability(model, batch, greedy, repeat=1)[:, 0] - 1e-4).all()


def log_probability(model, batch, sequences, repeat):
    """float[B, repeat], by one uncached forward of the whole answers."""
    encoder_outputs = model.get_encoder()(**batch)
    encoded = encoder_outputs.last_hidden_state.repeat_interleave(repeat, 0)
    mask = batch["attention_mask"].repeat_interleave(repeat, 0)
    with torch.no_grad():
        logits = model(encoder_outputs=(encoded,), attention_mask=mask, decoder_input_ids=sequences[:, :-1]).logits
    tokens = logits.log_softmax(-1).gather(2, sequences[:, 1:, None])
    return tokens.sum((1, 2)).view(-1, repeat)


def test_samples_follow_the_model_and_the_seed(model):
    batch = several_images()
    options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 6}
    torch.manual_seed(0)
    first = generate(model, batch, **options)
    torch.manual_seed(0)
    assert torch.equal(generate(model, batch, **options), first)
    assert first.shape == (8, 7)
    assert not torch.equal(generate(model, batch, **options), first)
    assert torch.equal(generate(model, batch, do_sample=True, top_k=1), generate(model, batch))


def test_one_sample_per_token_has_the_models_distribution():
    model = tiny_pali3("t5")
    batch = without(tiny_batch(examples=1), "labels")
    torch.manual_seed(0)
    samples = generate(model, batch, do_sample=True, top_k=0, num_return_sequences=4000, max_new_tokens=1)[:, 1]
    with torch.no_grad():
        expected = model(**batch).logits[0, -1].softmax(-1)
    found = torch.bincount(samples, minlength=VOCABULARY) / 4000
    assert (found - expected).abs().sum() < 0.1


def test_generation_stops_at_the_end_token_and_pads(model):
    batch = several_images()
    free = generate(model, batch)
    # the third token of the first answer becomes the end
    end = int(free[0, 3])
    answers = generate(model, batch, eos_token_id=end)
    for row, whole in zip(answers.tolist(), free.tolist()):
        length = whole.index(end, 1) + 1 if end in whole[1:] else len(whole)
        assert row[:length] == whole[:length]
        assert set(row[length:]) <= {PAD}


def test_the_end_token_is_in_the_generation_configuration():
    generation = tiny_pali3("t5gemma").generation_config
    assert (generation.eos_token_id, generation.pad_token_id, generation.decoder_start_token_id) == (END, PAD, 2)


def test_images_are_encoded_once(model):
    calls = []
    model.model.encoder.vision_tower.register_forward_hook(lambda *args: calls.append(1))
    generate(model, several_images(), num_beams=2)
    assert len(calls) == 1


def test_generates_from_embeddings_as_from_ids(model):
    batch = several_images()
    embeds = model.get_input_embeddings()(batch["input_ids"])
    answers = generate(model, without(batch, "input_ids") | {"inputs_embeds": embeds})
    assert torch.equal(answers, generate(model, batch))


def test_five_dimensional_pixel_values_generate_the_same(model):
    batch = several_images()
    batch = {key: value[:1] for key, value in batch.items() if key != "pixel_values"}
    images = several_images()["pixel_values"][:2]
    flat = generate(model, batch | {"pixel_values": images}, num_beams=2)
    assert torch.equal(generate(model, batch | {"pixel_values": images.view(1, 2, 3, SIDE, SIDE)}, num_beams=2), flat)


def test_answers_are_the_same_in_a_copy_and_in_training_mode_without_dropout(model):
    batch = several_images()
    assert torch.equal(generate(copy.deepcopy(model).train(), batch), generate(model, batch))
