"""Options of tasks as YAML files have them."""

from typing import Any

from openpali.data.sources import several


def set_tuples(task: Any, *fields: str) -> None:
    """Make tuples of options of a frozen task that may be one word or a list of them."""
    for field in fields:
        object.__setattr__(task, field, several(getattr(task, field)))
