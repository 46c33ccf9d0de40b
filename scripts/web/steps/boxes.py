"""`boxes`: things on an image and where they are, by an open-vocabulary detector, for `detect` and other tasks."""

from dataclasses import dataclass

from openpali.data.tasks.parts.caption_questions import caption_things
from openpali.modeling.dtypes import CHOICES
from openpali.scripts.web.labelling.detectors import Found, best_boxes, candidates, good_candidates, read_things
from openpali.scripts.web.labelling.label_models import can_be_labelled, check_label_model, label_model_name
from openpali.scripts.web.running.samples import Verdict, WebSample


@dataclass(frozen=True)
class Boxes:
    """Label `objects`: name, box, score and model of each thing, behind the objects that a record has.

    Attributes:
        model: folder or Hub name of an OWL-ViT, OWLv2, Grounding DINO or MM Grounding DINO.
        things: English names of what to look for on every image, or a text file with one a line; by default the things
            that the English captions of an image name.
        least_score: of a box, from 0 to 1.
        most_overlap: IoU at which the worse of two boxes of one name goes.
        most_boxes: on an image; the best stay.
        most_things: names that are looked for on an image where they come from its captions.
        things_at_once: names in one call of the model, of which a box gets the best.
        images_at_once: images in one call of the model.
        dtype: of the weights; auto is the checkpoint's own.
    """

    model: str = ""
    things: tuple[str, ...] = ()
    least_score: float = 0.3
    most_overlap: float = 0.5
    most_boxes: int = 50
    most_things: int = 20
    things_at_once: int = 80
    images_at_once: int = 8
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if min(self.most_boxes, self.most_things, self.things_at_once, self.images_at_once) < 1:
            raise ValueError("most_boxes, most_things, things_at_once and images_at_once are at least 1")
        if not 0 <= self.least_score <= 1 or not 0 < self.most_overlap <= 1 or self.dtype not in CHOICES:
            raise ValueError(f"least_score and most_overlap are at most 1, dtype is one of {', '.join(CHOICES)}")
        object.__setattr__(self, "things", read_things(self.things))
        check_label_model("boxes", self.model)

    def __call__(self, batch: list[WebSample]) -> list[Verdict]:
        """The things on each image."""
        names = [self.names(sample) for sample in batch]
        found: list[list[Found]] = [[] for _ in batch]
        calls = [
            (place, own[at : at + self.things_at_once])
            for place, own in enumerate(names)
            for at in range(0, len(own), self.things_at_once)
        ]
        for start in range(0, len(calls), self.images_at_once):
            part = calls[start : start + self.images_at_once]
            images = [batch[place].image for place, _ in part]
            results = candidates(self.model, self.dtype, images, [own for _, own in part])
            for (place, own), (boxes, scores) in zip(part, results):
                found[place] += good_candidates(boxes, scores, own, self.least_score)
        return [self.verdict(*row) for row in zip(batch, names, found)]

    def names(self, sample: WebSample) -> list[str]:
        """What to look for on an image."""
        if not can_be_labelled(sample.image):
            return []
        if self.things:
            return list(self.things)
        captions = sample.record.get("captions", {}).get("en", [])
        texts = [captions] if isinstance(captions, str) else captions
        return list(dict.fromkeys(name for text in texts for name in caption_things(text)))[: self.most_things]

    def verdict(self, sample: WebSample, names: list[str], found: list[Found]) -> Verdict:
        """The objects of a record and those that are found."""
        earlier = sample.record.get("label_models", {}).get("objects")
        objects = list(sample.record.get("objects", []))
        if earlier and not any("model" in item for item in objects):
            objects = [item | {"model": earlier} for item in objects]
        named = [item for item in objects if isinstance(item.get("names"), dict) and "box" in item]
        given = [Found(item["names"]["en"], item["box"], 1) for item in named if "en" in item["names"]]
        model = label_model_name(self.model)
        new = [
            {"names": {"en": one.name}, "box": one.box, "score": one.score, "model": model}
            for one in best_boxes(found, given, self.most_overlap, self.most_boxes)
        ]
        # a label without a model is a person's
        made_by = model if earlier in (None, model) else f"{earlier}, {model}"
        models = {"objects": made_by} if names and (new or not objects) else {}
        return Verdict(labels={"objects": objects + new}, models=models, values={"objects": len(new)})
