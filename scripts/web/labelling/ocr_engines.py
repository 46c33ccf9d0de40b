"""Which engine reads words: RapidOCR, or a function that a configuration names."""

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import Image

from openpali.scripts.web.labelling.rapid_ocr import model_name

OWN = "rapidocr"


@functools.cache
def load_engine(name: str) -> Callable[[Image.Image], Any]:
    """The function that `package.module:function` names.

    Raises:
        ValueError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"engine: {name} cannot be imported ({error})") from error


def engine_name(engine: str) -> str:
    """Name and version of an engine."""
    if engine == OWN:
        return model_name()
    try:
        return f"{engine} {version(engine.split('.')[0].split(':')[0])}"
    except PackageNotFoundError:
        return engine
