"""The releases of Transformers that openpali runs on, and all differences between them.

From 5.24 on, `past_key_values` is called `cache` in forwards, outputs and generation, and PaliGemma's outputs hold the
image encoder's output instead of its projected tokens. The rest of the package takes names from this file and never
compares versions. Exported checkpoints contain this file.

Shapes: `N` images, `P` tokens of an image, `D` width of the text model.
"""

from importlib.metadata import version
from typing import Any

# first and last minor release that the tests run on; setup.cfg has the same bounds
OLDEST, NEWEST = (5, 23), (5, 24)


def minor_release(package: str) -> tuple[int, int]:
    """The first two numbers of an installed package's version."""
    major, minor = version(package).split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()))


RELEASE = minor_release("transformers")
if RELEASE < OLDEST:
    raise ImportError(
        f"PaLI-3's code runs on Transformers {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}, and this is"
        f' {version("transformers")}: pip install --upgrade "transformers>={OLDEST[0]}.{OLDEST[1]},'
        f'<{NEWEST[0]}.{NEWEST[1] + 1}"'
    )

# name of the keys and values of earlier tokens in generation, forwards and outputs
CACHE = "cache" if RELEASE >= (5, 24) else "past_key_values"
CACHE_NAMES = ("cache", "past_key_values")


class CacheOutput:
    """Mixin of outputs, before the stock class: the cache under both names, whichever the release uses."""

    if CACHE == "past_key_values":

        @property
        def cache(self) -> Any:
            """The name in releases from 5.24 on."""
            return self.get("past_key_values")  # type: ignore[attr-defined]

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__("past_key_values" if key == "cache" else key)  # type: ignore[misc]


def peft_refusal() -> str | None:
    """A message if Transformers refuses the installed peft for adapters, otherwise None."""
    from packaging.version import parse
    from transformers.integrations.peft import MIN_PEFT_VERSION

    installed = version("peft")
    if parse(installed) >= parse(MIN_PEFT_VERSION):
        return None
    return (
        f"adapters: Transformers {version('transformers')} wants peft {MIN_PEFT_VERSION} or later, and this is"
        f" {installed}:"
        f' install a newer peft, or an older Transformers: pip install "transformers<{RELEASE[0]}.{RELEASE[1]}"'
    )


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache, which has two names.

    Raises:
        ValueError: both are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument: give one of them")
    return past_key_values if cache is None else cache


def image_fields(image_outputs: Any) -> dict[str, Any]:
    """The image field of PaliGemma's output, from the output of `get_image_features` (None: no images)."""
    if RELEASE >= (5, 24):
        return {"image_outputs": image_outputs}
    return {"image_hidden_states": None if image_outputs is None else image_outputs.pooler_output}


def image_tokens_of(output: Any) -> Any:
    """The projected image tokens of PaliGemma's output: float[N, P, D], or None."""
    if RELEASE >= (5, 24):
        return None if output.image_outputs is None else output.image_outputs.pooler_output
    return output.image_hidden_states
