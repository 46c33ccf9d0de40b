from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from openpali.eval.scoring import recall as retrieval
from openpali.eval.scoring.recall import chance_at_k, match_ranks, nearest, recall_at_k, retrieval_per_language

FIXTURE = np.load(Path(__file__).parents[2] / "fixtures" / "retrieval.npz")
IMAGES, TEXTS, OWN = (torch.from_numpy(FIXTURE[f"in/{key}"]) for key in ("zimg", "ztxt", "corr"))
NAMES = {"img2txt": "image_to_text", "txt2img": "text_to_image"}


@pytest.mark.parametrize("block", [1 << 22, 7])
def test_recalls_equal_the_reference(monkeypatch, block):
    monkeypatch.setattr(retrieval, "LARGEST_BLOCK", block)
    found = recall_at_k(IMAGES, TEXTS, OWN)
    names = {f"{name}_recall_at_{k}": f"out/{key}/Recall@{k}" for key, name in NAMES.items() for k in (1, 5, 10)}
    expected = {name: float(FIXTURE[key]) for name, key in names.items()}
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0 < found["image_to_text_recall_at_1"] < 1


def test_ranks_equal_those_of_sorting():
    torch.manual_seed(0)
    images, texts, own = torch.randn(7, 5), torch.randn(23, 5), torch.randint(0, 7, (23,))
    own[:7] = torch.arange(7)
    image_ranks, text_ranks = match_ranks(images, texts, own)
    scores = images @ texts.T
    for i in range(7):
        order = scores[i].argsort(descending=True).tolist()
        assert image_ranks[i] == min(order.index(j) for j in range(23) if own[j] == i)
    for j in range(23):
        assert text_ranks[j] == scores[:, j].argsort(descending=True).tolist().index(int(own[j]))


def test_order_of_texts_does_not_matter():
    order = torch.randperm(len(OWN), generator=torch.Generator().manual_seed(1))
    assert recall_at_k(IMAGES, TEXTS[order], OWN[order]) == pytest.approx(recall_at_k(IMAGES, TEXTS, OWN))


def test_collapsed_embeddings_score_as_chance_does():
    """The lower index comes first among equals; counting equals as found would give 100 %."""
    images, texts, own = torch.ones(10, 4), torch.ones(20, 4), torch.arange(20) // 2
    image_ranks, text_ranks = match_ranks(images, texts, own)
    assert image_ranks.tolist() == list(range(0, 20, 2))
    assert text_ranks.tolist() == own.tolist()
    found = recall_at_k(images, texts, own)
    assert found["text_to_image_recall_at_1"] == pytest.approx(chance_at_k(own)["text_to_image_recall_at_1"])
    assert found["image_to_text_recall_at_1"] == pytest.approx(0.1)


def test_of_equal_right_texts_the_first_counts():
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    image_ranks, _ = match_ranks(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), texts, torch.tensor([1, 1, 0, 0]))
    assert image_ranks.tolist() == [1, 0]


def test_images_without_texts_are_in_the_way_but_no_queries():
    images = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = recall_at_k(images, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 2]), ks=(1,))
    assert found == {"image_to_text_recall_at_1": 1.0, "text_to_image_recall_at_1": 0.5}


def test_chance_is_what_random_embeddings_reach():
    torch.manual_seed(0)
    own = torch.cat([torch.arange(8), torch.tensor([0, 0, 0, 1, 1])])
    runs = [recall_at_k(torch.randn(8, 6), torch.randn(13, 6), own, (1, 3)) for _ in range(1500)]
    mean = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
    assert mean == pytest.approx(chance_at_k(own, (1, 3)), abs=0.02)
    assert chance_at_k(own, (20,)) == {"image_to_text_recall_at_20": 1.0, "text_to_image_recall_at_20": 1.0}
    assert chance_at_k(own, (2,), images=16)["text_to_image_recall_at_2"] == 2 / 16


def test_languages_are_scored_apart_and_averaged():
    """German has texts of the first three images only: the others are no candidates of its texts."""
    language = ["en", "de", "en"] * 6
    language = ["en" if int(i) > 2 else name for i, name in zip(OWN, language)]
    table = retrieval_per_language(IMAGES, TEXTS, OWN, language, (1, 2))
    assert list(table.languages) == ["en", "de"]
    german = [i for i, name in enumerate(language) if name == "de"]
    expected = recall_at_k(IMAGES[:3], TEXTS[german], OWN[german], (1, 2))
    assert table.languages["de"].recalls == expected
    assert (table.languages["de"].images, table.languages["de"].texts) == (3, len(german))
    for key in expected:
        both = [table.languages[name].recalls[key] for name in ("en", "de")]
        assert table.mean[key] == pytest.approx(sum(both) / 2)
        chances = [table.languages[name].chance[key] for name in ("en", "de")]
        assert table.chance[key] == pytest.approx(sum(chances) / 2)
    assert table.languages["de"].chance["text_to_image_recall_at_1"] == pytest.approx(1 / 3)
    assert table.as_dict()["languages"]["de"]["images"] == 3


def test_texts_that_images_share_set_a_ceiling():
    """Four dogs and a cat; the cat and one dog have a name of their own too."""
    texts = ["dog", "dog", "dog", "dog", "cat", "rex", "tom", "Hund"]
    language, own = ["en"] * 7 + ["de"], torch.tensor([0, 1, 2, 3, 4, 0, 4, 0])
    table = retrieval_per_language(IMAGES, TEXTS[:8], own, language, (1, 2), texts)
    ceiling = table.languages["en"].ceiling
    assert ceiling["text_to_image_recall_at_1"] == pytest.approx((4 * 1 / 4 + 3) / 7)
    assert ceiling["text_to_image_recall_at_2"] == pytest.approx((4 * 2 / 4 + 3) / 7)
    assert ceiling["image_to_text_recall_at_1"] == pytest.approx((3 * 1 / 4 + 2) / 5)
    assert set(table.languages["de"].ceiling.values()) == {1.0}
    assert table.ceiling["text_to_image_recall_at_1"] == pytest.approx((4 / 7 + 1) / 2)
    assert set(retrieval_per_language(IMAGES, TEXTS[:8], own, language, (1, 2)).ceiling.values()) == {1.0}


def test_the_ceiling_is_what_perfect_embeddings_reach():
    """One axis a text: equal texts have equal embeddings, and chance decides among their images."""
    kinds = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    embeds = torch.eye(3)[kinds]
    found = recall_at_k(embeds, embeds, torch.arange(10))
    names = [f"text {int(kind)}" for kind in kinds]
    assert found == pytest.approx(retrieval.ceiling_at_k(names, range(10)))
    assert found["image_to_text_recall_at_1"] == pytest.approx(0.3)


@pytest.mark.parametrize(("queries", "copies", "width"), [(100, 2, 5), (27, 5, 16), (64, 2, 768), (1, 50, 33)])
def test_equal_texts_have_equal_scores_at_whatever_place(queries, copies, width):
    """Otherwise the last bit of a matrix product would say which of several images with one text comes first."""
    torch.manual_seed(0)
    texts = normalize(torch.randn(5, width), dim=1).repeat(copies, 1)
    places, scores = nearest(normalize(torch.randn(queries, width), dim=1), texts, 5 * copies)
    for row, values in zip(places.view(-1, 5, copies), scores.view(-1, 5, copies)):
        assert all((group == group[0]).all() for group in values)
        assert all(group.tolist() == list(range(int(group[0]), 5 * copies, 5)) for group in row)


def test_nearest_are_sorted_and_stable():
    places, scores = nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), 5)
    assert places.tolist() == [[1, 2, 0]]
    assert scores.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("images", "texts", "own", "message"),
    [
        (IMAGES, TEXTS, OWN[:-1], r"expected float\[n, D\]"),
        (IMAGES, TEXTS[:, :4], OWN, r"expected float\[n, D\]"),
        (IMAGES[:5], TEXTS, OWN, "indices of the 5 images, from 0 to 4"),
        (IMAGES, TEXTS, OWN - 1, "indices of the 6 images"),
        (IMAGES[:0], TEXTS, OWN, "nothing to retrieve: 0 images and 18 texts"),
        (IMAGES * float("nan"), TEXTS, OWN, "image embeddings hold NaN"),
        (IMAGES, TEXTS / 0, OWN, "text embeddings hold NaN or infinity"),
    ],
)
def test_what_cannot_be_scored_is_refused(images, texts, own, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(images, texts, own)


def test_a_language_is_needed_for_every_text():
    with pytest.raises(ValueError, match="2 languages for 18 texts"):
        retrieval_per_language(IMAGES, TEXTS, OWN, ["en", "de"])
