"""What a token is: of the image, a word of the prompt, a word of the answer, or a mark."""

from dataclasses import dataclass
from pathlib import Path

from records import ANSWERS, PROMPTS, words
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Kinds:
    """Kinds of token ids, and the ids of each kind."""

    ids: dict[str, list[int]]

    @classmethod
    def of_folder(cls, folder: str) -> "Kinds":
        """Read the tokenizer of a checkpoint."""
        tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        named = {"image": ["<image>"], "prompt": words(PROMPTS), "answer": words(ANSWERS), "end": ["<eos>"]}
        named |= {"padding": ["<pad>"], "start": ["<bos>"], "separator": ["\n"]}
        found = {kind: [tokenizer.token_to_id(token) for token in tokens] for kind, tokens in named.items()}
        assert None not in sum(found.values(), []), found
        return cls(found)

    def of(self, token: int) -> str:
        """The kind of a token."""
        return next((kind for kind, ids in self.ids.items() if token in ids), "other")

    def places(self, tokens: list[int], *kinds: str) -> list[int]:
        """Positions of the tokens of some kinds."""
        return [place for place, token in enumerate(tokens) if self.of(token) in kinds]

    def other(self, token: int, kind: str) -> int:
        """A token of a kind that is not this one."""
        return next(one for one in self.ids[kind] if one != token)
