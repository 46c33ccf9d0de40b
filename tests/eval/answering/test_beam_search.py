from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import MODELS, examples
from tiny_pali3 import END, IMAGE, IMAGE_TOKENS, KINDS, PAD, tiny_batch, tiny_pali3
from tiny_paligemma import IMAGES, PREFIXES, tiny_paligemma, tiny_paligemma_processor
from tiny_paligemma import KINDS as GEMMAS
from torch.nn.functional import pad
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from openpali.eval.answering.beam_search import Beams, beam_search
from openpali.eval.answering.decoding import encode, generate
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.scripts.convert_big_vision import convert

FIXTURES = Path(__file__).parents[2] / "fixtures"
# many end tokens make answers of different lengths; the first two tokens are none, so that beams change places
ENDS = {"eos_token_id": list(range(END, 64, 5)), "min_new_tokens": 2, "max_new_tokens": 6}


class Markov(PreTrainedModel, GenerationMixin):
    """The next token's logits are the last token's row of a table, float[rows, V]; rows beyond V are for prompts."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"

    def __init__(self, table: torch.Tensor, eos: int | None = 1):
        config = PreTrainedConfig(num_hidden_layers=1)
        super().__init__(config)
        self.table = torch.nn.Parameter(table)
        self.generation_config.update(eos_token_id=eos, pad_token_id=0)
        self.calls = 0
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, cache: Any = None, past_key_values: Any = None, use_cache: Any = None, **_: Any
    ) -> CausalLMOutput:
        self.calls += 1
        return CausalLMOutput(logits=self.table[input_ids])


def search(model, inputs, num_beams, **options):
    """Answers without the ids given, and their log-probabilities."""
    result = model.generate(
        **inputs,
        custom_generate=beam_search,
        num_beams=num_beams,
        do_sample=False,
        return_dict_in_generate=True,
        **options,
    )
    given = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    torch.testing.assert_close(result.token_scores.sum(1), result.sequences_scores, rtol=1e-4, atol=1e-4)
    return result.sequences[:, given:], result.sequences_scores


def reference(case):
    """The model of a case, its prompts, and the longest answer."""
    with np.load(FIXTURES / "beam_unit2.npz") as data:
        table = np.concatenate([data[f"{case}/transition_logits"], data[f"{case}/start_logits"]])
        model = Markov(torch.from_numpy(table), int(data["eos"]))
        return model, {"input_ids": torch.tensor([[8], [9], [10]])}, int(data["T"])


def printed(name):
    with np.load(FIXTURES / "beam_unit2.npz") as data:
        return torch.from_numpy(data[name])


@pytest.mark.parametrize("num_beams", [1, 2, 3])
@pytest.mark.parametrize("case", ["case0", "case1", "case2", "case3"])
def test_the_reference_finds_the_same_answers(case, num_beams):
    model, prompts, limit = reference(case)
    answers, scores = search(model, prompts, num_beams, max_new_tokens=limit)
    name = f"{case}/beam{num_beams}"
    assert pad(answers, (0, limit - answers.shape[1])).tolist() == printed(f"{name}/tokens").tolist()
    torch.testing.assert_close(scores, printed(f"{name}/score")[:, 0], atol=1e-5, rtol=0)
    assert model.calls == int(printed(f"{name}/steps"))


@pytest.mark.parametrize("case", ["case0", "case1", "case3"])
def test_one_beam_is_the_best_cut_of_the_endless_greedy_answer(case):
    """Plain greedy decoding goes on until the end token is the likeliest one, which in these cases it never is."""
    model, prompts, limit = reference(case)
    table = model.table.detach().log_softmax(-1)
    answers, scores = search(model, prompts, 1, max_new_tokens=limit)
    greedy = model.generate(**prompts, max_new_tokens=limit, do_sample=False)[:, 1:]
    for row, token in enumerate(prompts["input_ids"][:, 0].tolist()):
        path, score, cuts = [], torch.zeros(()), {}
        for _ in range(limit):
            cuts[(*path, 1)] = float(score + table[token, 1])
            step = table[token].clone()
            step[1] = -torch.inf
            token = int(step.argmax())
            score, path = score + step[token], [*path, token]
        best = max(cuts, key=lambda cut: cuts[cut])
        assert answers[row, : len(best)].tolist() == list(best)
        assert float(scores[row]) == pytest.approx(cuts[best], abs=1e-5)
        assert path == greedy[row].tolist()


@pytest.mark.parametrize("ends", [[1], [1, 3]])
def test_wide_beams_find_the_likeliest_of_all_sequences(ends):
    table = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) * 2
    table[:, ends] -= 3
    model, prompts = Markov(table), {"input_ids": torch.tensor([[5], [6], [2]])}
    answers, scores = search(model, prompts, 4**3, max_new_tokens=4, eos_token_id=ends)
    words = [token for token in range(5) if token not in ends]
    lengths = set()
    for row, prompt in enumerate(prompts["input_ids"][:, 0].tolist()):
        every = {}
        for answer in (a for n in range(4) for a in product(*[words] * n, ends)):
            steps = zip((prompt, *answer), answer)
            every[answer] = sum(float(table[a].log_softmax(-1)[b]) for a, b in steps)
        best = max(every, key=lambda answer: every[answer])
        lengths.add(len(best))
        assert answers[row].tolist() == [*best, *[0] * (answers.shape[1] - len(best))]
        assert float(scores[row]) == pytest.approx(every[best], abs=1e-5)
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_wide_beams_of_pali3_find_the_likeliest_of_all_sequences(kind):
    """Nine beams hold every answer of three tokens out of four allowed ones; scored by uncached forwards."""
    model, batch = tiny_pali3(kind), several_images()
    words, start = [5, 7, 9], model.config.decoder_start_token_id
    every = [answer for n in range(3) for answer in product(*[words] * n, [END])]
    allowed = {"prefix_allowed_tokens_fn": lambda row, ids: [END, *words]}
    answers, scores = search(model, batch, 9, max_new_tokens=3, eos_token_id=END, **allowed)
    log_p = []
    for answer in every:
        ids = torch.tensor([[start, *answer]] * 2)
        with torch.no_grad():
            steps = model(**batch, decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
        log_p.append(steps.gather(2, ids[:, 1:, None]).sum((1, 2)))
    best_scores, best = torch.stack(log_p).max(0)
    torch.testing.assert_close(scores, best_scores, rtol=1e-4, atol=1e-4)
    for row, index in enumerate(best.tolist()):
        assert answers[row][answers[row] != PAD].tolist() == list(every[index])


def several_images():
    """The first example has two images, the second one; padded on the right."""
    batch = tiny_batch(examples=3)
    ids = torch.full((2, 14), PAD)
    words = batch["input_ids"][:, IMAGE_TOKENS:]
    ids[0] = torch.cat([torch.full((2 * IMAGE_TOKENS,), IMAGE), words[0]])
    ids[1, :10] = torch.cat([torch.full((IMAGE_TOKENS,), IMAGE), words[1]])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": batch["pixel_values"]}


@pytest.fixture
def moves(monkeypatch):
    """Steps in which beams change places; without any a cache that stays in its order would go unseen."""
    steps, grow = [], Beams.grow

    def recorded(self, *arguments):
        parents = grow(self, *arguments)
        if self.length > 1 and (parents != torch.arange(len(parents))).any():
            steps.append(parents)
        return parents

    monkeypatch.setattr(Beams, "grow", recorded)
    return steps


def assert_same(first, second):
    assert first[0].tolist() == second[0].tolist()
    torch.testing.assert_close(first[1], second[1], rtol=1e-4, atol=1e-4)


def assert_each_alone(together, alone):
    """Row by row, padding of the longer aside."""
    for row, (answer, score) in enumerate(alone):
        length = answer.shape[1]
        assert together[0][row, :length].tolist() == answer[0].tolist()
        assert not together[0][row, length:].any()
        torch.testing.assert_close(together[1][row], score[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pali3_with_and_without_cache_together_and_alone(moves, kind):
    model, batch = tiny_pali3(kind), several_images()
    together = search(model, batch, 3, **ENDS)
    assert_same(together, search(model, batch, 3, use_cache=False, **ENDS))
    ids, images = batch["input_ids"], batch["pixel_values"]
    rows = [(ids[:1], images[:2]), (ids[1:, :10], images[2:])]
    alone = [search(model, {"input_ids": i, "pixel_values": p}, 3, **ENDS) for i, p in rows]
    assert_each_alone(together, alone)
    assert moves


@pytest.mark.parametrize("kind", GEMMAS)
def test_paligemma_with_and_without_cache_together_and_alone(moves, tiny_tokenizer, kind):
    """Prompts are padded on the left; the second example has three images, the third two."""
    processor = tiny_paligemma_processor(tiny_tokenizer)
    model = tiny_paligemma(kind, processor)
    images = [IMAGES[:1], IMAGES[1:], IMAGES[:2], IMAGES[3:]]
    options: Any = ENDS | {"eos_token_id": list(range(END, 1400, 4))}

    def prompts(rows):
        chosen = {"images": [images[row] for row in rows], "text": [PREFIXES[row] for row in rows]}
        return processor(**chosen, return_tensors="pt", padding=True)

    together = search(model, prompts(range(4)), 3, **options)
    assert_same(together, search(model, prompts(range(4)), 3, use_cache=False, **options))
    assert_each_alone(together, [search(model, prompts([row]), 3, **options) for row in range(4)])
    assert moves


def test_prompts_come_back_with_the_answers(tiny_paligemma):
    model, processor = tiny_paligemma
    inputs = processor(images=IMAGES, text=PREFIXES, return_tensors="pt", padding=True)
    ids = model.generate(**inputs, custom_generate=beam_search, num_beams=2, max_new_tokens=5, min_new_tokens=3)
    assert torch.equal(ids[:, :-4], inputs["input_ids"])
    assert (ids[:, -1] == END).all()


def test_it_stops_when_no_beam_can_win():
    """After token 8 the end is likely at once, after 9 in the third step only; a batch goes on for the last."""
    table = torch.zeros(10, 8)
    for row, column in ((8, 1), (9, 2), (2, 3), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (0, 1)):
        table[row, column] = 8
    for rows, calls, expected in (
        ([8], 1, [[1]]),
        ([9], 3, [[2, 3, 1]]),
        ([8, 9], 3, [[1, 0, 0], [2, 3, 1]]),
    ):
        model = Markov(table)
        answers, _ = search(model, {"input_ids": torch.tensor(rows)[:, None]}, 3, max_new_tokens=7)
        assert (answers.tolist(), model.calls) == (expected, calls)


def test_unfinished_beams_do_not_win_at_the_limit():
    table = torch.zeros(3, 3)
    table[:, 1] = -6
    table[:, 2] = 6
    answers, scores = search(Markov(table), {"input_ids": torch.tensor([[2]])}, 2, max_new_tokens=4)
    assert answers.tolist() == [[1]]
    assert float(scores[0]) == pytest.approx(float(table[2].log_softmax(-1)[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "does not sample"),
        ({"num_return_sequences": 2}, "keeps one answer"),
        ({"eos_token_id": None}, "needs an end token"),
        ({"max_time": 1.0}, "stops at length"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    model = Markov(torch.zeros(3, 3), eos=options.get("eos_token_id", 1))
    with pytest.raises(ValueError, match=message):
        model.generate(
            torch.tensor([[2]]), custom_generate=beam_search, max_new_tokens=2, **{"num_beams": 2} | options
        )


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_searches_this_way(kind):
    model, processor = MODELS[kind]()
    # a random model with one end token says nothing but that
    ends = list(range(END, model.get_output_embeddings().out_features, 5))
    model.eval().generation_config.update(eos_token_id=ends, min_new_tokens=2)
    found = generate(model, processor, examples(), 8, 6, num_beams=3, progress=False)
    expected, others = [], []
    for example in examples():
        inputs = encode(model, processor, [example], blank_images=False)
        prompt = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        for texts, way in ((expected, {"custom_generate": beam_search}), (others, {})):
            ids = model.generate(**inputs, **way, num_beams=3, max_new_tokens=6, do_sample=False)
            texts.append(processor.batch_decode(ids[:, prompt:], skip_special_tokens=True)[0].strip())
    assert found == expected
    assert found != others


@pytest.fixture(scope="module", params=["paligemma1_tiny", "paligemma2_tiny", "paligemma2_tiny_nocap"])
def converted(request, tmp_path_factory):
    """The reference's model, its prompts, what it printed, and the soft-cap of its logits."""
    # Transformers' usual padding of the table to 64 rows would take part in every softmax
    settings = ["text_config.vocab_size=512"]
    if request.param.endswith("nocap"):
        settings.append("text_config.final_logit_softcapping=null")
    folder = tmp_path_factory.mktemp(request.param) / "model"
    file = FIXTURES / f"{request.param}.npz"
    convert(file, folder, settings=settings)
    model: Any = PaliGemmaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    with np.load(file) as data:
        given = {key: torch.from_numpy(data[key]) for key in data.files if "_decode/" in key and data[key].ndim}
        given["in_decode/eos2"] = torch.tensor(int(data["in_decode/eos2"]))
    images = torch.full((3, 4), model.config.image_token_id)
    ids = torch.cat([images, given["in_decode/text"].long()], 1)
    mask = torch.cat([torch.ones_like(images), given["in_decode/mask_input"].long()], 1)
    # padding to the left of the images
    order = mask.argsort(dim=1, stable=True)[:, -int(mask.sum(1).max()) :]
    inputs = {"input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)}
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    inputs["pixel_values"] = given["in_decode/image"].permute(0, 3, 1, 2)
    return model, inputs, given, 30.0 if request.param == "paligemma2_tiny" else None


@pytest.mark.parametrize("end", ["", "_eos2"])
def test_paligemma_finds_the_answers_of_the_reference(converted, end):
    model, inputs, given, _ = converted
    eos = int(given["in_decode/eos2"]) if end else 1
    widths = [key for key in given if key.startswith("out_decode/beam") and key.endswith(f"tokens{end}")]
    assert len(widths) == (2 if end else 3)
    for key in widths:
        width = int(key.removeprefix("out_decode/beam")[0])
        answers, _ = search(model, inputs, width, max_new_tokens=8, eos_token_id=eos)
        assert pad(answers, (0, 8 - answers.shape[1])).tolist() == given[key].tolist()


def test_paligemma_decodes_greedily_as_the_reference(converted):
    """The reference does not cap the logits of an answer's first token, Transformers does; the order is the same."""
    model, inputs, given, cap = converted
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    result = model.generate(**inputs, **options)
    logits = torch.stack(result.logits, 1)
    if cap is not None:
        logits[:, 0] = cap * torch.atanh(logits[:, 0] / cap)
    torch.testing.assert_close(logits[:, :4], given["out_decode/step_logits"], atol=1e-5, rtol=1e-5)
    tokens = result.sequences[:, inputs["input_ids"].shape[1] :]
    assert tokens.tolist() == given["out_decode/greedy_tokens"].tolist()
    log_p = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(log_p, given["out_decode/greedy_logp"], atol=1e-5, rtol=1e-5)
