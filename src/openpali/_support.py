"""A warning at import about installed packages whose release is not supported."""

import logging
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

# packages whose releases affect openpali's behaviour; setup.cfg has their bounds
WATCHED = ("torch", "transformers", "peft", "accelerate")


def unsupported() -> list[str]:
    """A sentence for each watched package that is installed in an unsupported release."""
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


def warn_unsupported() -> None:
    """Log a warning for each unsupported release."""
    for text in unsupported():
        logging.getLogger("openpali").warning("%s: pip install --upgrade openpali, or the supported release", text)
