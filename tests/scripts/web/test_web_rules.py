"""The rules on captions and images, languages, and the best share by sketches."""

import numpy as np
import pytest
from PIL import Image
from raw_web import scene
from tiny_siglip import tiny_siglip

from openpali.eval.image_encoders.embedding import embed_images, embed_texts
from openpali.scripts.web.plan import StepPlan, WebRun
from openpali.scripts.web.samples import KEEP, WebSample, merged
from openpali.scripts.web.steps.best_share import BestShare, sketch_shard
from openpali.scripts.web.steps.image_rules import ImageRules
from openpali.scripts.web.steps.language import Language
from openpali.scripts.web.steps.similarity import Similarity
from openpali.scripts.web.steps.text_rules import TextRules
from openpali.scripts.web.tables import Row, Verdict, write_table


def sample(captions=None, image: Image.Image | None = None, number: int = 0) -> WebSample:
    record = {} if captions is None else {"captions": captions}
    return WebSample("0000", number, f"{number:04d}", image or scene(number), record)


GOOD = ["a red bus in front of a house", "two dogs", "赤いバスと家", "لقطة لحافلة حمراء", "बस और दो कुत्ते", "3 dogs"]
BAD = {
    "a": "caption too short",
    "word " * 300: "caption too long",
    "see https://example.com/1": "caption with an address",
    "mail to sales@example.com": "caption with an address",
    "IMG_0231.JPG": "caption is a file name or boilerplate",
    "dsc00231": "caption is a file name or boilerplate",
    "Click to enlarge!": "caption is a file name or boilerplate",
    "$ 12.99 - 50 % !!": "caption with few letters",
    "cheap cheap cheap shoes": "caption repeats a word",
}


@pytest.mark.parametrize("text", GOOD)
def test_captions_that_describe_stay(text):
    assert TextRules()([sample({"en": [text]})]) == [KEEP]


@pytest.mark.parametrize("text", BAD)
def test_captions_that_describe_nothing_go(text):
    assert TextRules()([sample({"en": [text]})])[0].drop == BAD[text]


def test_one_good_caption_keeps_a_sample():
    verdict = TextRules()([sample({"en": ["IMG_1.jpg", "a red bus"], "de": "www.example.de"})])[0]
    assert not verdict.drop
    assert verdict.labels == {"captions": {"en": ["a red bus"]}}
    # without captions there is nothing to judge
    assert TextRules()([sample()]) == [KEEP]


IMAGES = {
    "": scene(0),
    "image too small": scene(0, 20),
    "image too long and narrow": scene(0).resize((400, 100)),
    "image of one colour": Image.new("RGB", (96, 96), (9, 9, 9)),
}


@pytest.mark.parametrize("reason", IMAGES)
def test_rules_on_images(reason):
    assert ImageRules(least_side=32)([sample(image=IMAGES[reason])])[0].drop == reason


def test_captions_are_sorted_by_language():
    pytest.importorskip("lingua")
    step = Language(languages=("en", "de"), among=("en", "de", "fr", "zh"))
    given = {"und": ["two dogs in front of a small house", "zwei Hunde vor einem kleinen Haus"], "de": "ein Bus"}
    verdict = step([sample(given)])[0]
    assert verdict.labels["captions"] == {
        "en": ["two dogs in front of a small house"],
        "de": ["zwei Hunde vor einem kleinen Haus", "ein Bus"],
    }
    assert verdict.models == {"language": "lingua"}
    others = step([sample({"und": "deux chiens devant une petite maison"}), sample({"fr": "un bus"}), sample()])
    assert [own.drop for own in others] == ["no caption in these languages"] * 2 + [""]
    record = merged(sample(given).record, verdict)
    assert record["label_models"] == {"language": "lingua"}
    # a language that is given is checked on request
    checked = Language(languages=("en",), among=("en", "de"), check_given=True)
    assert checked([sample({"en": "zwei Hunde vor einem kleinen Haus"})])[0].drop


def test_similarity_is_that_of_the_model(tmp_path):
    model, processor = tiny_siglip()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    step = Similarity(model=str(tmp_path), languages=("en", "de"))
    batch = [
        sample({"en": ["red", "blue"], "de": "gelb", "fr": "noir"}),
        sample({"fr": "noir"}),
        sample({"en": "red"}, number=2),
    ]
    verdicts = step(batch)
    assert verdicts[1].drop == "no caption to score"
    images = embed_images(model, processor.image_processor, [batch[0].image, batch[2].image])
    texts = embed_texts(model, processor.tokenizer, ["red", "blue", "gelb", "red"])
    first = (texts[:3] @ images[0]).tolist()
    best = int(np.argmax(first))
    assert verdicts[0].values["score"] == pytest.approx(first[best], abs=1e-5)
    assert verdicts[0].values["score_language"] == ("en", "en", "de")[best]
    assert verdicts[2].values["score"] == pytest.approx(float(texts[3] @ images[1]), abs=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_merged_sketches_find_the_quantile_of_the_whole_set(tmp_path, share):
    pytest.importorskip("ddsketch")
    step = BestShare(share=share, by_language=False)
    scored = StepPlan(1, "similarity", Similarity(model="a"), 64, 1, 0, None)
    plan = StepPlan(2, "best_share", step, 64, 1, 0, None)
    names = tuple(f"{shard:04d}" for shard in range(5))
    run = WebRun(tmp_path, names, names, "en", (scored, plan))
    rng = np.random.default_rng(0)
    scores = [rng.normal(0.1, 0.05 * (shard + 1), 400) for shard in range(5)]
    for name, own in zip(names, scores):
        verdicts = [Verdict(values={"score": float(score), "score_language": "en"}) for score in own]
        write_table(run.table(scored, name), [Row(at, str(at), verdict) for at, verdict in enumerate(verdicts)])
    found = [sketch_shard({"shard": place}, run, plan)["sketches"].content["all"] for place in range(5)]
    for order in (found[1:], found[:0:-1]):
        merged_sketch = type(found[0])(step.accuracy)
        for sketch in (found[0], *order):
            merged_sketch.merge(sketch)
        threshold = merged_sketch.get_quantile_value(1 - share)
        every = np.sort(np.concatenate(scores))
        exact = every[int((1 - share) * (len(every) - 1))]
        assert threshold == pytest.approx(exact, rel=step.accuracy)
    assert len(every) == 2000
