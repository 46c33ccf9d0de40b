"""Evaluation data of image encoders: features, texts and classes of a source's records.

Images are embedded batch by batch and not kept; the report reads those that it shows again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from tqdm import tqdm

from openpali.data.records import BadRecord, SkipLog
from openpali.data.sources import Source
from openpali.eval.image_encoders.embedding import batches, pooled_features
from openpali.eval.image_encoders.models import Encoder

# sources that have a record for each image and language by default
BY_LANGUAGE = ("xm3600",)


@runtime_checkable
class StreamedSource(Protocol):
    """An iterable-style source, such as `WebDataset`."""

    name: str

    def records(self) -> Iterator[dict[str, Any]]:
        """Every good record once, in a fixed order."""
        ...


@dataclass
class EncoderData:
    """Features, texts and classes of the images of a source.

    Attributes:
        places: index of each image's record in the source.
        features: by name of the encoder and by pooling, float[n, D], not normalised.
        texts: all captions of all images.
        text_image: 0-based image of each text.
        text_language: language of each text.
        concepts: class of each image; None where it has none or several.
        names: names of each class by language.
        source: of the records, to read images again.
    """

    places: list[int] = field(default_factory=list)
    features: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    text_image: list[int] = field(default_factory=list)
    text_language: list[str] = field(default_factory=list)
    concepts: list[str | None] = field(default_factory=list)
    names: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    source: Any = None

    def add(self, place: int, record: dict[str, Any], languages: Sequence[str] | None) -> None:
        """Add a record, without its image."""
        number = len(self.places)
        self.places.append(place)
        for language, texts in captions_of(record, languages).items():
            self.texts += texts
            self.text_image += [number] * len(texts)
            self.text_language += [language] * len(texts)
        concept, names = class_of(record)
        self.concepts.append(concept)
        if concept is not None:
            known = self.names.setdefault(concept, {})
            for language, texts in names.items():
                if languages is None or language in languages:
                    own = known.setdefault(language, [])
                    own += [text for text in texts if text not in own]

    @property
    def languages(self) -> list[str]:
        """Languages of texts and class names, in alphabetical order."""
        return sorted({*self.text_language, *(language for names in self.names.values() for language in names)})


def encode_source(
    source: Source | StreamedSource,
    encoders: Sequence[Encoder],
    skipped: SkipLog,
    limit: int | None = None,
    languages: Sequence[str] | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> EncoderData:
    """Read the records of a source once, and compute every encoder's features of their images.

    Args:
        source: of records with images; of several images in a record the first counts.
        encoders: to compute features with.
        skipped: log of records that cannot be used.
        limit: number of records, all when None.
        languages: of the texts to keep, all when None.
        batch_size: images in memory at once.
        progress: show a progress bar.

    Raises:
        ValueError: no record can be used.
    """
    data = EncoderData(source=source)
    chunks: dict[str, dict[str, list[torch.Tensor]]] = {
        encoder.name: {pooling: [] for pooling in encoder.poolings} for encoder in encoders
    }
    streamed = isinstance(source, StreamedSource)
    total = limit if streamed else min(limit or len(source), len(source))
    with tqdm(total=total, desc="images", unit="image", disable=not progress) as bar:
        for batch in batches(records_of(source, skipped, limit), batch_size):
            images = [image_of(record) for _, record in batch]
            for encoder in encoders:
                options = encoder.poolings, batch_size
                features = pooled_features(encoder.model, encoder.image_processor, images, *options)
                for pooling, rows in features.items():
                    chunks[encoder.name][pooling].append(rows)
            for place, record in batch:
                data.add(place, record, languages)
            bar.update(len(batch))
    if not data.places:
        raise ValueError(f"the source {source.name!r} has no record that can be used; see skipped_records.jsonl")
    data.features = {
        name: {pooling: torch.cat(rows) for pooling, rows in kinds.items()} for name, kinds in chunks.items()
    }
    return data


def one_record_an_image(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of a source, whose images would otherwise be encoded once for each language."""
    return {"by_image": True} | spec if spec.get("name") in BY_LANGUAGE else spec


def records_of(
    source: Source | StreamedSource, skipped: SkipLog, limit: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Good records with their indices in the source or stream."""
    if isinstance(source, StreamedSource):
        yield from islice(enumerate(source.records()), limit)
        return
    for place in range(min(len(source) if limit is None else limit, len(source))):
        try:
            yield place, source[place]
        except BadRecord as bad:
            skipped.add(bad)


def read_again(source: Source | StreamedSource, places: Sequence[int]) -> Iterator[Image.Image]:
    """Images of records by index, in rising order, one at a time."""
    if not isinstance(source, StreamedSource):
        yield from (image_of(source[place]) for place in places)
        return
    wanted = set(places)
    records = islice(enumerate(source.records()), max(places, default=-1) + 1)
    yield from (image_of(record) for place, record in records if place in wanted)


def images_at(source: Source | StreamedSource, places: Sequence[int]) -> dict[int, Image.Image]:
    """Images of records by index; a stream is read again up to the last of them."""
    if not isinstance(source, StreamedSource):
        return {place: image_of(source[place]) for place in sorted(set(places))}
    records = islice(enumerate(source.records()), max(places, default=-1) + 1)
    return {place: image_of(record) for place, record in records if place in set(places)}


def image_of(record: dict[str, Any]) -> Image.Image:
    """The first image of a record."""
    return record["images"][0] if "images" in record else record["image"]


def captions_of(record: dict[str, Any], languages: Sequence[str] | None) -> dict[str, list[str]]:
    """Texts of a record by language, restricted to `languages` unless None.

    A record without captions has its suffix as one, in the first of the languages, or in English.
    """
    captions = record.get("captions")
    if not captions:
        captions = {(languages or ["en"])[0]: record.get("suffix") or []}
    wanted = [language for language in captions if languages is None or language in languages]
    found = {language: as_list(captions[language]) for language in wanted}
    return {language: texts for language, texts in found.items() if texts}


def class_of(record: dict[str, Any]) -> tuple[str | None, dict[str, list[str]]]:
    """The class of a record's image and its names by language.

    The class is the record's `concept`, or that of its objects where all share one. Its names are those of the
    objects, or the captions of a record without objects.
    """
    objects = record.get("objects") or []
    concepts = {item["concept"] for item in objects if item.get("concept")}
    concept = record.get("concept") or (next(iter(concepts)) if len(concepts) == 1 else None)
    if concept is None:
        return None, {}
    named = [item["names"] for item in objects if item.get("concept") == concept and item.get("names")]
    names = named[0] if named else record.get("captions") or {}
    found = {language: as_list(texts) for language, texts in names.items()}
    return str(concept), {language: texts for language, texts in found.items() if texts}


def as_list(texts: str | Sequence[str]) -> list[str]:
    """The distinct texts as a list, without empty ones."""
    return [text for text in dict.fromkeys([texts] if isinstance(texts, str) else texts) if text]
