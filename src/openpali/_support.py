"""Says at import which releases are supported, where another one is installed."""

import logging
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

# whose releases change what openpali does; the bounds are those of setup.cfg
WATCHED = ("torch", "transformers", "peft", "accelerate")


def unsupported() -> list[str]:
    """One sentence for each watched package that is installed in a release outside its bounds."""
    found = []
    try:
        bounds = [Requirement(text) for text in requires("openpali") or ()]
    except PackageNotFoundError:  # a checkout on the path, not installed
        return []
    for bound in bounds:
        if bound.name in WATCHED and bound.marker is None:
            installed = version(bound.name)
            if not bound.specifier.contains(installed, prereleases=True):
                found.append(f"openpali supports {bound.name}{bound.specifier}, and {installed} is installed")
    return found


def say_unsupported() -> None:
    """A line for each."""
    for text in unsupported():
        logging.getLogger("openpali").warning("%s: pip install --upgrade openpali, or the supported release", text)
