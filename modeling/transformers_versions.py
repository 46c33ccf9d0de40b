"""The releases of Transformers that openpali runs on, and all that differs between them.

From 5.24 on, `past_key_values` is called `cache` in forwards, outputs and generation, and PaliGemma's outputs hold the
image encoder's output instead of its projected tokens. Everything else of this package asks here for the name and
never for a version. Exported checkpoints carry this file.
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

# what generation, forwards and outputs call the keys and values of earlier tokens
CACHE = "cache" if RELEASE >= (5, 24) else "past_key_values"
CACHE_NAMES = ("cache", "past_key_values")


class CacheOutput:
    """Outputs have their cache under both names, whichever the release calls it by; stands before the stock class."""

    if CACHE == "past_key_values":

        @property
        def cache(self) -> Any:
            """As releases from 5.24 on call it."""
            return self.get("past_key_values")  # type: ignore[attr-defined]

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__("past_key_values" if key == "cache" else key)  # type: ignore[misc]


def peft_refusal() -> str | None:
    """One sentence where Transformers' adapters refuse the installed peft, otherwise None."""
    from packaging.version import parse
    from transformers.integrations.peft import MIN_PEFT_VERSION

    found = version("peft")
    if parse(found) >= parse(MIN_PEFT_VERSION):
        return None
    return (
        f"adapters: Transformers {version('transformers')} wants peft {MIN_PEFT_VERSION} or later, and this is"
        f" {found}:"
        f' install a newer peft, or an older Transformers: pip install "transformers<{RELEASE[0]}.{RELEASE[1]}"'
    )


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The one of the two that was given.

    Raises:
        ValueError: both were.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument: give one of them")
    return past_key_values if cache is None else cache


def image_fields(image_outputs: Any) -> dict[str, Any]:
    """The field of PaliGemma's output that holds images, from what `get_image_features` answers (None: no images)."""
    if RELEASE >= (5, 24):
        return {"image_outputs": image_outputs}
    return {"image_hidden_states": None if image_outputs is None else image_outputs.pooler_output}


def image_tokens_of(output: Any) -> Any:
    """The projected image tokens that PaliGemma's output holds, float[total_images, tokens, D_text], or None."""
    if RELEASE >= (5, 24):
        return None if output.image_outputs is None else output.image_outputs.pooler_output
    return output.image_hidden_states
