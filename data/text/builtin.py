"""Texts about the built-in scenes, the default corpus of stage 0 for the text side."""

import random
from collections.abc import Sequence
from typing import Any

from openpali.data.sources.builtin.drawings import concept_chars, concept_names
from openpali.data.sources.builtin.phrases import LANGUAGES, POSITIONS, caption, phrases, position_word, question


class BuiltInTexts:
    """Texts about scenes as in the built-in images: a caption, then questions with their answers.

    A text is in one language and about one scene, so that its sentences agree. Text i is a pure function of
    (seed, split, i).
    """

    name = "builtin"

    def __init__(
        self,
        split: str = "train",
        languages: Sequence[str] = ("en",),
        concepts: int = 100,
        objects: tuple[int, int] = (1, 4),
        questions: tuple[int, int] = (1, 4),
        length: int = 20_000,
        seed: int = 0,
    ) -> None:
        """Describe the texts.

        Args:
            split: train, validation or test, with different scenes.
            languages: of the texts.
            concepts: number of concepts, from the start of the fixed list.
            objects: fewest and most different things in a scene.
            questions: fewest and most questions of a text.
            length: number of texts.
            seed: another seed gives other scenes.

        Raises:
            ValueError: an unknown language or too many concepts.
        """
        languages = (languages,) if isinstance(languages, str) else tuple(languages)
        for language in languages:
            if language not in LANGUAGES:
                raise ValueError(f"no language {language!r}; there are {', '.join(LANGUAGES)}")
        if not 1 <= objects[0] <= objects[1] < min(concepts, len(POSITIONS) + 1) or length < 1:
            raise ValueError(f"objects={list(objects)}, length={length}: fewest and most, below concepts; at least 1")
        self.split, self.languages, self.seed, self.length = split, languages, seed, length
        self.objects, self.questions = tuple(objects), tuple(questions)
        self.names = [concept_names(char) for char in concept_chars("seen", concepts)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"text {index} of {self.length}")
        rng = random.Random(f"openpali/texts/{self.seed}/{self.split}/{index}")
        language = rng.choice(self.languages)
        *things, absent = (names[language] for names in rng.sample(self.names, rng.randint(*self.objects) + 1))
        counts = {thing: rng.choice([1, 1, 2, 3]) for thing in things}
        places: dict[str, str] = dict(zip(things, rng.sample(POSITIONS, len(things))))
        lines = [caption(counts, language)]
        lines += [self._question(language, counts, places, absent, rng) for _ in range(rng.randint(*self.questions))]
        return {"id": f"builtin-{self.split}-{self.seed}-{index}", "text": "\n".join(lines)}

    def _question(
        self, language: str, counts: dict[str, int], places: dict[str, str], absent: str, rng: random.Random
    ) -> str:
        """A question and its answer."""
        words, thing = phrases(language), rng.choice(list(counts))
        kind = rng.choice(["count", "presence", "where", "what_at"])
        if kind == "count":
            return f"{question(kind, language, thing=thing)} {words['numbers'][counts[thing] - 1]}"
        if kind == "presence":
            named = rng.choice([thing, absent])
            return f"{question(kind, language, thing=named)} {words['yes_no'][0 if named == thing else 1]}"
        if kind == "where":
            return f"{question(kind, language, thing=thing)} {position_word(places[thing], language)}"
        return f"{question(kind, language, position=places[thing])} {thing}"
