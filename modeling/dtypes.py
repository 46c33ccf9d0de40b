"""The `--dtype` option of commands: the type of a checkpoint's weights."""

from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHOICES = ("auto", *DTYPES)


def requested_dtype(name: str) -> torch.dtype | str:
    """The `dtype` of `from_pretrained`: "auto" (the checkpoint's own), or the type of that name.

    Raises:
        ValueError: the name is another one.
    """
    if name not in CHOICES:
        raise ValueError(f"dtype is one of {', '.join(CHOICES)}, not {name!r}")
    return DTYPES.get(name, "auto")


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a type, such as bfloat16."""
    return str(dtype).removeprefix("torch.")
