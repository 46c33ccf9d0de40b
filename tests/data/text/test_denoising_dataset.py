from collections import Counter

import pytest
import torch

from openpali.data.records import BadRecord, SkipLog
from openpali.data.text.denoising_dataset import SpanCorruptionDataset, pad_collate
from openpali.data.text.span_corruption import UL2, SpecialTokens, reassemble

END = 1
SPECIAL = SpecialTokens(tuple(range(900, 1000)), {"R": (2,), "X": (3,), "S": (4,)}, END)


class Texts:
    """Text i is `sizes[i]` numbers from 1000 * (i + 1) on."""

    name = "texts"

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        if self.sizes[index] is None:
            raise BadRecord("texts", index, "torn")
        return {"text": " ".join(str(1000 * (index + 1) + i) for i in range(self.sizes[index]))}


def tokenize(text, add_special_tokens):
    assert not add_special_tokens
    return {"input_ids": [int(word) for word in text.split()]}


def dataset(*sizes, max_length=64, num_examples=100, **options):
    texts = Texts(*sizes)
    return SpanCorruptionDataset(texts, tokenize, SPECIAL, max_length, num_examples, **options)  # pyright: ignore


def originals(data):
    return [reassemble(item["input_ids"], item["labels"], SPECIAL) for item in (data[i] for i in range(len(data)))]


def test_short_texts_come_back_whole_and_long_ones_as_stretches():
    data = dataset(10, 500)
    for i, tokens in enumerate(originals(data)):
        assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
        assert (tokens[0], len(tokens)) == (1000, 10) if i % 2 == 0 else len(tokens) > 40
    assert len({tokens[0] for tokens in originals(data)[1::2]}) > 25


def test_items_are_pure_functions_of_seed_and_index():
    data, again = dataset(10, 500), dataset(10, 500)
    backwards = {i: again[i] for i in reversed(range(100))}
    assert [data[i] for i in range(100)] == [backwards[i] for i in range(100)]
    assert dataset(10, 500, seed=1)[1] != data[1]
    assert data[1] != data[3]
    with pytest.raises(IndexError):
        data[100]


def test_the_mixture_is_uniform_or_by_weight():
    drawn = Counter(dataset(50, num_examples=7000)[i]["denoiser"] for i in range(7000))
    assert set(drawn) == {denoiser.name for denoiser in UL2}
    assert all(abs(count - 1000) < 150 for count in drawn.values())
    chosen = dataset(50, num_examples=2000, weights={"R-3-15": 3, "S-25": 1, "X-3-50": 0})
    drawn = Counter(chosen[i]["denoiser"] for i in range(2000))
    assert set(drawn) == {"R-3-15", "S-25"}
    assert drawn["S-25"] == pytest.approx(500, abs=80)
    # those that are not drawn need no sentinels
    few = SpecialTokens(SPECIAL.sentinels[:9], SPECIAL.prefixes, END)
    SpanCorruptionDataset(Texts(9), tokenize, few, 64, 1, {"X-3-50": 0, "S-25": 1})  # pyright: ignore
    with pytest.raises(ValueError, match="X-3-50 takes 15 spans"):
        SpanCorruptionDataset(Texts(9), tokenize, few, 64, 1)  # pyright: ignore


def test_every_kind_has_its_prefix():
    heads = {"R": 2, "X": 3, "S": 4}
    for item in (dataset(50)[i] for i in range(30)):
        assert item["input_ids"][0] == heads[item["denoiser"][0]]


def test_packed_inputs_are_full_and_hold_texts_in_order_with_ends_between():
    data = dataset(10, 30, 7, 90, packed=True, num_examples=200)
    for i, tokens in enumerate(originals(data)):
        assert len(data[i]["input_ids"]) in (63, 64)
        assert tokens[0] // 1000 == i % 4 + 1
        for before, after in zip(tokens, tokens[1:]):
            if after == END:
                assert before % 1000 == (10, 30, 7, 90)[before // 1000 - 1] - 1
            elif before == END:
                assert after % 1000 == 0
            else:
                assert after == before + 1
    firsts = Counter(tokens[0] for tokens in originals(data) if tokens[0] < 2000)
    assert len(firsts) >= 8
    assert set(originals(dataset(1, packed=True))[0]) == {1000, END}
    with pytest.raises(ValueError, match="no text has any token"):
        dataset(0, None, packed=True)[0]


def test_bad_and_empty_texts_are_passed_over():
    log = SkipLog()
    data = dataset(None, 1, 0, 5, skip_log=log)
    assert all(tokens == list(range(4000, 4005)) for tokens in originals(data))
    assert [row["record"] for row in log.read()] == ["0"]
    with pytest.raises(ValueError, match="no text has two tokens"):
        dataset(1, 0)[0]
    with pytest.raises(ValueError, match="there are no texts"):
        dataset()


def test_sentinels_in_texts_are_dropped():
    data = SpanCorruptionDataset([{"text": "20 21 900 22 23"}], tokenize, SPECIAL, 64, 20)  # pyright: ignore
    assert all(tokens == [20, 21, 22, 23] for tokens in originals(data))


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"R-3": 1}, "no denoiser 'R-3'; there are R-3-15"), ({"S-25": -1}, "negative"), ({"S-25": 0}, "positive")],
)
def test_weights_that_make_no_sense(weights, message):
    with pytest.raises(ValueError, match=message):
        dataset(9, weights=weights)


def test_batches_are_padded_and_masked():
    items = [{"input_ids": [5, 6, 1], "labels": [7, 1]}, {"input_ids": [0, 1], "labels": [8, 9, 1]}]
    batch = pad_collate(items, pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 1], [0, 1, 0]]
    # a padding id inside a text is a token
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 1, -100], [8, 9, 1]]
    assert batch["labels"].dtype == torch.int64
