"""What an encoder is measured on: features, texts and classes of a source's records, read as a stream.

ImageFolder are embedded batch by batch and forgotten; those that a report shows are read again.
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


@runtime_checkable
class StreamedSource(Protocol):
    """A source whose records come in order and not by number, such as `WebDataset`."""

    name: str

    def records(self) -> Iterator[dict[str, Any]]:
        """Every good record once, in the same order each time."""
        ...


@dataclass
class Collected:
    """What is kept of the records that were read.

    Attributes:
        places: of each image, the number of its record in the source.
        features: by name of the encoder and by pooling, float[n, D], not normalised.
        texts: all captions of all images.
        text_image: the image of each, counted from 0.
        text_language: and its language.
        concepts: the class of each image; None where it has none, or shows things of several.
        names: by class and language, what it is called.
    """

    places: list[int] = field(default_factory=list)
    features: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    text_image: list[int] = field(default_factory=list)
    text_language: list[str] = field(default_factory=list)
    concepts: list[str | None] = field(default_factory=list)
    names: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def add(self, place: int, record: dict[str, Any], languages: Sequence[str] | None) -> None:
        """Note everything of a record but its image."""
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
        """Of texts and class names, in alphabetical order."""
        return sorted({*self.text_language, *(language for names in self.names.values() for language in names)})


def collect(
    source: Source | StreamedSource,
    encoders: Sequence[Encoder],
    skipped: SkipLog,
    limit: int | None = None,
    languages: Sequence[str] | None = None,
    batch_size: int = 64,
    *,
    progress: bool = False,
) -> Collected:
    """Read records once, and keep every encoder's features of their images.

    Args:
        source: of records with images; those with several count by their first.
        encoders: whose features to keep.
        skipped: where records that cannot be used are listed.
        limit: number of records, all when None.
        languages: whose texts to keep, all when None.
        batch_size: images in memory at once.
        progress: show a bar.

    Raises:
        ValueError: there is no record that can be used.
    """
    found = Collected()
    chunks: dict[str, dict[str, list[torch.Tensor]]] = {
        encoder.name: {pooling: [] for pooling in encoder.poolings} for encoder in encoders
    }
    streamed = isinstance(source, StreamedSource)
    total = limit if streamed else min(limit or len(source), len(source))
    with tqdm(total=total, desc="pictures", unit="image", disable=not progress) as bar:
        for batch in batches(records_of(source, skipped, limit), batch_size):
            images = [image_of(record) for _, record in batch]
            for encoder in encoders:
                options = encoder.poolings, batch_size
                features = pooled_features(encoder.model, encoder.image_processor, images, *options)
                for pooling, rows in features.items():
                    chunks[encoder.name][pooling].append(rows)
            for place, record in batch:
                found.add(place, record, languages)
            bar.update(len(batch))
    if not found.places:
        raise ValueError(f"the source {source.name!r} has no record that can be used; see skipped_records.jsonl")
    found.features = {
        name: {pooling: torch.cat(rows) for pooling, rows in kinds.items()} for name, kinds in chunks.items()
    }
    return found


def records_of(
    source: Source | StreamedSource, skipped: SkipLog, limit: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Good records with their places: numbers in the source, or in the order of a stream."""
    if isinstance(source, StreamedSource):
        yield from islice(enumerate(source.records()), limit)
        return
    for place in range(min(len(source) if limit is None else limit, len(source))):
        try:
            yield place, source[place]
        except BadRecord as bad:
            skipped.add(bad)


def images_at(source: Source | StreamedSource, places: Sequence[int]) -> dict[int, Image.Image]:
    """ImageFolder of records that were read before, by their places; a stream is read again up to the last of them."""
    if not isinstance(source, StreamedSource):
        return {place: image_of(source[place]) for place in sorted(set(places))}
    records = islice(enumerate(source.records()), max(places, default=-1) + 1)
    return {place: image_of(record) for place, record in records if place in set(places)}


def image_of(record: dict[str, Any]) -> Image.Image:
    """The image of a record, the first of several."""
    return record["images"][0] if "images" in record else record["image"]


def captions_of(record: dict[str, Any], languages: Sequence[str] | None) -> dict[str, list[str]]:
    """Texts of a record by language, those of `languages` only when they are given.

    A record without captions has its suffix for one, in the first of the languages, or in English.
    """
    captions = record.get("captions")
    if not captions:
        captions = {(languages or ["en"])[0]: record.get("suffix") or []}
    wanted = [language for language in captions if languages is None or language in languages]
    found = {language: as_list(captions[language]) for language in wanted}
    return {language: texts for language, texts in found.items() if texts}


def class_of(record: dict[str, Any]) -> tuple[str | None, dict[str, list[str]]]:
    """The class of a record's image and its names by language.

    It is the record's `concept`, or that of its objects where all are of one. Its names are those of the objects, or
    the captions where there are no objects.
    """
    objects = record.get("objects") or []
    shown = {item["concept"] for item in objects if item.get("concept")}
    concept = record.get("concept") or (next(iter(shown)) if len(shown) == 1 else None)
    if concept is None:
        return None, {}
    named = [item["names"] for item in objects if item.get("concept") == concept and item.get("names")]
    names = named[0] if named else record.get("captions") or {}
    found = {language: as_list(texts) for language, texts in names.items()}
    return str(concept), {language: texts for language, texts in found.items() if texts}


def as_list(texts: str | Sequence[str]) -> list[str]:
    """One text or several, without empty ones and each once."""
    return [text for text in dict.fromkeys([texts] if isinstance(texts, str) else texts) if text]
