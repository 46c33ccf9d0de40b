"""Numbers for JSON files."""

import math
from collections.abc import Mapping
from typing import TypeVar

Number = TypeVar("Number", bound=float)


def json_numbers(metrics: Mapping[str, Number]) -> dict[str, Number | None]:
    """Numbers by name for a JSON file, where nan becomes null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in metrics.items()}
