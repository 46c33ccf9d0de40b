import pytest
import torch
from tiny_siglip import COLOURS, random_images, tiny_siglip
from torch.nn.functional import normalize

from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.eval.image_encoders.zero_shot import (
    class_embeddings,
    prompts,
    read_templates,
    templates_of,
    zero_shot_accuracy,
    zero_shot_per_language,
)


@pytest.fixture(scope="module")
def siglip():
    return tiny_siglip()


def test_a_class_is_the_normalised_mean_of_its_sentences(siglip):
    model, processor = siglip
    templates = ("{}", "an image of {}")
    found = class_embeddings(model, processor.tokenizer, ["red", ["blue", "blau"]], templates, batch_size=3)
    sentences = [["red", "an image of red"], ["blue", "an image of blue", "blau", "an image of blau"]]
    for row, group in zip(found, sentences, strict=True):
        expected = normalize(embed_texts(model, processor.tokenizer, group).mean(0), dim=0)
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    # the mean of one sentence only would be another
    assert (found[0] - embed_texts(model, processor.tokenizer, ["red"])[0]).norm() > 1e-3


def test_sentences():
    assert prompts("a{b}", ["{}", "see {}"]) == ["a{b}", "see a{b}"]
    assert prompts(["dog", "dog", "hound"]) == ["dog", "hound"]
    with pytest.raises(ValueError, match=r"in place of the name: \['a photo'\]"):
        prompts("dog", ["{}", "a photo"])
    with pytest.raises(ValueError, match="there is none"):
        prompts("dog", [])
    with pytest.raises(ValueError, match="needs a name"):
        prompts([])


@pytest.mark.parametrize("language", sorted(read_templates()))
def test_templates_of_every_language(language):
    templates = templates_of(language)
    assert templates[0] == "{}"
    assert len(set(templates)) == len(templates) >= 3
    assert len(prompts("name", templates)) == len(templates)
    assert all(template.count("{}") == 1 for template in templates)


def test_english_has_eight_templates_and_an_unknown_language_the_bare_name():
    assert len(templates_of("en")) == 8
    assert templates_of("quz") == ("{}",)
    # YAML reads a bare `no` as false
    assert "no" in read_templates()


def test_accuracy_by_hand():
    classes = torch.eye(6)
    images = torch.tensor([[0.9, 0.1, 0, 0, 0, 0], [0.6, 0.5, 0, 0, 0, 0], [0.5, 0.4, 0.3, 0.2, 0.1, 0]])
    labels = torch.tensor([0, 1, 5])
    assert zero_shot_accuracy(images, classes, labels) == pytest.approx({"top_1": 1 / 3, "top_5": 2 / 3})
    assert zero_shot_accuracy(images, classes, labels, (2,)) == pytest.approx({"top_2": 2 / 3})
    # equally near classes: the first is named
    assert zero_shot_accuracy(images[:0].new_ones(2, 6), classes, torch.tensor([0, 3]), (1,)) == {"top_1": 0.5}


def test_languages_apart(siglip):
    """A class without a name in a language is no choice there, and its images do not count."""
    model, processor = siglip
    names = list(COLOURS)
    images = embed_images(model, processor.image_processor, random_images(5))
    labels = torch.arange(5)
    german = [COLOURS[name] for name in names]
    classes = {"en": names, "xx": [german[0], None, german[2], None, None], "yy": [None] * 5}
    table = zero_shot_per_language(model, processor.tokenizer, images, labels, classes, {"en": ["an image of {}"]})
    assert table.classes == {"en": 5, "xx": 2}
    embeds = class_embeddings(model, processor.tokenizer, names, ["an image of {}"])
    assert table.languages["en"] == zero_shot_accuracy(images, embeds, labels)
    embeds = class_embeddings(model, processor.tokenizer, [german[0], german[2]])
    assert table.languages["xx"] == zero_shot_accuracy(images[[0, 2]], embeds, torch.tensor([0, 1]))
    assert table.languages["xx"]["top_5"] == 1.0
    assert table.mean["top_5"] == pytest.approx((table.languages["en"]["top_5"] + 1) / 2)
    assert table.as_dict()["languages"]["xx"]["classes"] == 2
    with pytest.raises(ValueError, match="no class of the images has a name in yy"):
        zero_shot_per_language(model, processor.tokenizer, images, labels, {"yy": [None] * 5})
