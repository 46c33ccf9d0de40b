import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openpali.data.text.span_corruption import (
    UL2,
    Denoiser,
    SpecialTokens,
    corrupt,
    reassemble,
    segments,
    special_tokens,
    text_length,
)
from openpali.data.tokenizer import train_tokenizer

END = 1
SPECIAL = SpecialTokens(tuple(range(1000, 1300)), {"R": (10, 11), "X": (10, 12), "S": (13,)}, END)
PLAIN = SpecialTokens(tuple(range(1000, 1300)), {}, END)


def text(length, seed=0):
    # the end token inside too, as between packed documents
    return random.Random(seed).choices([END, *range(20, 900)], k=length)


def test_the_seven_of_the_paper():
    assert [d.name for d in UL2] == ["R-3-15", "R-8-15", "X-3-50", "X-8-50", "X-64-15", "X-64-50", "S-25"]


def test_an_example_by_hand():
    inputs, target = corrupt([20, 21, 22, 23], Denoiser("S", 0.25), SPECIAL, random.Random(0))
    assert (inputs, target) == ([13, 20, 21, 22, END], [23, END])
    found = {
        tuple(map(tuple, corrupt([20, 21, 22], Denoiser("R", 0.3, 3), SPECIAL, random.Random(seed))))
        for seed in range(40)
    }
    assert found == {
        ((10, 11, 20, 1000, 22, END), (1000, 21, END)),
        ((10, 11, 20, 21, 1000, END), (1000, 22, END)),
    }


@given(
    length=st.integers(2, 400),
    seed=st.integers(0, 10**6),
    denoiser=st.sampled_from(UL2),
    special=st.sampled_from([SPECIAL, PLAIN]),
)
def test_input_and_target_restore_the_text(length, seed, denoiser, special):
    tokens = text(length, seed)
    inputs, target = corrupt(tokens, denoiser, special, random.Random(seed))
    assert reassemble(inputs, target, special) == tokens
    assert len(inputs) == denoiser.input_length(length) + len(special.prefixes.get(denoiser.kind, ()))
    assert len(target) == denoiser.target_length(length)
    assert (inputs[-1], target[-1]) == (END, END)
    assert corrupt(tokens, denoiser, special, random.Random(seed)) == (inputs, target)


@given(
    length=st.integers(2, 300),
    rate=st.floats(0.01, 0.99),
    span=st.one_of(st.none(), st.floats(1, 80)),
    seed=st.integers(0, 10**6),
)
def test_any_denoiser_restores_the_text(length, rate, span, seed):
    denoiser, tokens = Denoiser("X", rate, span), text(length, seed)
    assert reassemble(*corrupt(tokens, denoiser, PLAIN, random.Random(seed)), PLAIN) == tokens


def spans_of(target):
    """Sizes of the spans of a target."""
    sizes = []
    for token in target[:-1]:
        if token in SPECIAL.sentinels:
            sizes.append(0)
        else:
            sizes[-1] += 1
    return sizes


@pytest.mark.parametrize("denoiser", UL2[:-1], ids=lambda d: d.name)
def test_rate_and_mean_span_are_exact_and_sentinels_in_order(denoiser):
    rng, tokens = random.Random(1), text(512)
    for _ in range(50):
        inputs, target = corrupt(tokens, denoiser, SPECIAL, rng)
        sizes = spans_of(target)
        assert sum(sizes) == round(512 * denoiser.rate)
        assert len(sizes) == max(1, round(sum(sizes) / denoiser.mean_span))
        assert min(sizes) >= 1
        used = [token for token in inputs if token in SPECIAL.sentinels]
        assert used == list(SPECIAL.sentinels[: len(sizes)])
        # two sentinels side by side would be one span
        assert all(b - a > 1 for a, b in zip(positions(inputs), positions(inputs)[1:]))


def positions(inputs):
    return [i for i, token in enumerate(inputs) if token in SPECIAL.sentinels]


@pytest.mark.parametrize("denoiser", [UL2[0], UL2[2], UL2[4]], ids=lambda d: d.name)
def test_every_part_of_a_text_is_taken_out_equally_often(denoiser):
    length, draws, quarter = 200, 3000, 50
    taken, rng = Counter(), random.Random(2)
    tokens = list(range(20, 20 + length))
    for _ in range(draws):
        taken.update(set(corrupt(tokens, denoiser, SPECIAL, rng)[1]) - set(SPECIAL.sentinels) - {END})
    rates = [taken[token] / draws for token in tokens]
    assert taken[tokens[0]] == 0
    assert sum(rates) / length == pytest.approx(denoiser.counts(length)[0] / length, abs=1e-9)
    if denoiser.mean_span < 10:
        for start in range(0, length, quarter):
            assert sum(rates[start : start + quarter]) / quarter == pytest.approx(denoiser.rate, abs=0.02)
    else:
        # one span of 30 that begins anywhere from 1 to 170: it is the end of the text once in 170
        assert denoiser.counts(length) == (30, 1)
        assert rates[-1] == pytest.approx(1 / 170, abs=0.006)
        assert rates[100] == pytest.approx(30 / 170, abs=0.03)


def test_segments_are_uniform():
    rng = random.Random(3)
    drawn = Counter(tuple(segments(6, 3, rng)) for _ in range(10_000))
    assert len(drawn) == 10
    assert all(abs(count - 1000) < 150 for count in drawn.values())
    assert segments(5, 1, rng) == [5]
    assert segments(4, 4, rng) == [1, 1, 1, 1]


@pytest.mark.parametrize("max_length", [16, 77, 128, 512])
@pytest.mark.parametrize("denoiser", UL2, ids=lambda d: d.name)
def test_inputs_fill_max_length(denoiser, max_length):
    length = text_length(denoiser, SPECIAL, max_length)
    inputs, _ = corrupt(text(length), denoiser, SPECIAL, random.Random(0))
    assert max_length - 1 <= len(inputs) <= max_length
    prefix = len(SPECIAL.prefixes[denoiser.kind])
    assert all(denoiser.input_length(n) + prefix > max_length for n in range(length + 1, length + 30))


def test_t5s_own_arithmetic():
    # as the T5 code answers for inputs of 512: 568 tokens, targets of 114
    denoiser = Denoiser("R", 0.15, 3)
    assert (denoiser.raw_length(512), denoiser.target_length(568)) == (568, 114)


def test_too_few_sentinels_are_said_before_training_and_while_corrupting():
    few = SpecialTokens(tuple(range(1000, 1100)), SPECIAL.prefixes, END)
    with pytest.raises(ValueError, match="X-3-50 takes 127 spans out of a text of 764 tokens, and there are 100 sent"):
        text_length(UL2[2], few, 512)
    assert text_length(UL2[0], few, 512) > 500
    with pytest.raises(ValueError, match="lower max_length or add sentinels"):
        corrupt(text(764), UL2[2], few, random.Random(0))


def test_mistakes():
    with pytest.raises(ValueError, match="at least 2"):
        corrupt([20], UL2[0], SPECIAL, random.Random(0))
    with pytest.raises(ValueError, match="too few"):
        text_length(UL2[0], SPECIAL, 4)
    for options in (("Z", 0.5, 3), ("R", 0, 3), ("R", 1, 3), ("R", 0.5, 0.5)):
        with pytest.raises(ValueError, match="kind is one of R, X, S"):
            Denoiser(*options)
    with pytest.raises(ValueError, match=r"sentinels \[1000\], the target \[1001\]"):
        reassemble([20, 1000, END], [1001, 22, END], SPECIAL)


def test_special_tokens_of_tokenizers():
    tokenizer = train_tokenizer(["a b c"] * 3, 300)
    with pytest.raises(ValueError, match="no token '<extra_id_0>'.*add some"):
        special_tokens(tokenizer)
    last = special_tokens(tokenizer, last_ids=3)
    assert last.sentinels == tuple(len(tokenizer) - i for i in (1, 2, 3))
    assert len(last.prefixes["R"]) == len("[NLU]")
    tokenizer.add_tokens(["<extra_id_1>", "<extra_id_0>", "<extra_id_3>", "[NLU]"])
    found = special_tokens(tokenizer, {"R": "[NLU]", "S": ""})
    assert tokenizer.convert_ids_to_tokens(list(found.sentinels)) == ["<extra_id_0>", "<extra_id_1>"]
    assert found.prefixes == {"R": (tokenizer.convert_tokens_to_ids("[NLU]"),), "S": ()}
    assert found.end == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        special_tokens(tokenizer)
