"""Images and captions that classifiers, taught two colours and two texts, call unsafe."""

import pickle

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from openpali.modeling.user_errors import CheckpointError
from openpali.scripts.web.running.samples import WebSample
from openpali.scripts.web.steps.safety import Safety

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
RUDE, KIND = "detect dog", "a red dog"


def labels(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def taught(model, inputs, targets):
    """Adam until every probability is below 0.05 or above 0.95."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        loss = model(**inputs, labels=targets).loss
        if loss.item() < 0.02:
            return model.eval()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"it has not learnt its labels: the loss is {loss.item():.2f}")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Red is unsafe, blue is not."""
    folder = tmp_path_factory.mktemp("images")
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=8, **SIZE, **labels("normal", "NSFW")))
    pixels = processor([Image.new("RGB", (9, 8), name) for name in ("blue", "red")], return_tensors="pt")
    taught(model, dict(pixels), torch.tensor([0, 1])).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory, tiny_tokenizer):
    """`RUDE` is toxic, `KIND` is not, and nothing is a threat."""
    folder = tmp_path_factory.mktemp("texts")
    tiny_tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), max_position_embeddings=32, **SIZE, **labels("toxic", "threat")
    )
    config.problem_type = "multi_label_classification"
    torch.manual_seed(0)
    inputs = tiny_tokenizer([RUDE, KIND], padding=True, return_tensors="pt")
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    model = taught(BertForSequenceClassification(config), inputs, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    model.save_pretrained(folder)
    return str(folder)


def sample(colour="blue", **captions):
    return WebSample("a", 0, "0", Image.new("RGB", (8, 8), colour), {"captions": captions} if captions else {})


def test_an_image_goes_from_a_probability_on(images):
    step = pickle.loads(pickle.dumps(Safety(image_model=images, image_labels={"nsfw": 0.5})))
    blue, red, bare = step([sample(en=RUDE), sample("red", en=KIND), sample("red")])
    assert (blue.drop, blue.labels) == ("", {})
    assert (red.drop, bare.drop) == ("image is NSFW",) * 2
    assert 0 < blue.values["image_NSFW"] < 0.1
    assert 0.9 < red.values["image_NSFW"] < 1
    # from this very probability on, and not from a larger one
    for least, drop in ((red.values["image_NSFW"], "image is NSFW"), (0.99999, "")):
        assert Safety(image_model=images, image_labels={"NSFW": least})([sample("red")])[0].drop == drop


def test_captions_go_one_by_one_and_a_sample_without_any_left_goes(texts):
    step = Safety(text_model=texts, text_labels={"toxic": 0.5, "threat": 0.5})
    batch = [sample(en=RUDE), sample(en=KIND, de=[KIND]), sample(en=[RUDE, KIND], de=RUDE), sample()]
    rude, kind, mixed, bare = step(batch)
    assert (rude.drop, rude.labels) == ("caption is toxic", {})
    assert (kind.drop, kind.labels) == ("", {})
    assert (mixed.drop, mixed.labels) == ("", {"captions": {"en": [KIND]}})
    assert (bare.drop, bare.labels, bare.values) == ("", {}, {})
    assert mixed.values["text_toxic"] == pytest.approx(rude.values["text_toxic"], abs=1e-5)
    assert mixed.values["text_threat"] < 0.1


def test_images_and_captions_together(images, texts):
    step = Safety(images, {"nsfw": 0.5}, texts, {"toxic": 0.5})
    verdicts = step([sample("red", en=RUDE), sample(en=RUDE), sample(en=KIND)])
    assert [one.drop for one in verdicts] == ["image is NSFW", "caption is toxic", ""]
    assert set(verdicts[0].values) == {"image_NSFW", "text_toxic"}


def test_an_unknown_label_is_named_before_anything_runs(images, texts):
    with pytest.raises(ValueError, match=r"image_labels: .* has no label 'porn'; it has normal, NSFW"):
        Safety(image_model=images, image_labels={"porn": 0.5})
    with pytest.raises(ValueError, match=r"text_labels: .* has no label 'rude'; it has toxic, threat"):
        Safety(text_model=texts, text_labels={"rude": 0.5})
    with pytest.raises(CheckpointError, match="no folder outputs/nowhere"):
        Safety(image_model="outputs/nowhere", image_labels={"nsfw": 0.5})
    # where the Hub is switched off, a configuration that names it can be read and planned
    step = Safety(image_model="someone/classifier", image_labels={"nsfw": 0.5})
    with pytest.raises(CheckpointError, match="there is no folder someone/classifier here, and the Hub cannot be"):
        step([sample("red")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give image_model with image_labels"),
        ({"image_model": "m"}, "image_model and image_labels belong together"),
        ({"image_model": "m", "image_labels": {"nsfw": 0.5}, "text_labels": {"x": 1}}, "text_model and text_labels"),
        ({"image_model": "m", "image_labels": {"nsfw": 0}}, "nsfw: 0 is no probability above 0"),
        ({"text_model": "m", "text_labels": {"toxic": "much"}}, "toxic: 'much' is no probability"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, monkeypatch):
    monkeypatch.setattr("openpali.scripts.web.steps.safety.label_of", lambda model, label, option: label)
    with pytest.raises(ValueError, match=message):
        Safety(**options)
