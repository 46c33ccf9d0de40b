"""Classes of custom data, by name or by number."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openpali.data.files.annotations import BadValue
from openpali.modeling.location_tokens import clean_label

_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


@dataclass(frozen=True)
class Classes:
    """The classes that a label may have.

    Attributes:
        names: number of a class to its name; empty where labels are names.
        offset: added to numbers of the data.
        given: the names are those of `--classes`, and no other name is valid.
    """

    names: Mapping[int, str]
    offset: int = 0
    given: bool = False

    def label(self, value: Any) -> str:
        """The class name for `detect` and `segment`.

        Raises:
            BadValue: there is no such class, or its name could not be parsed from generated text.
        """
        name = self._named(value)
        try:
            name = clean_label(name)
        except ValueError as error:
            raise BadValue(str(error), "Rename the class.") from error
        if not name:
            raise BadValue("its label is empty", "Give each object the name of its class.")
        return name

    def answer(self, value: str) -> str:
        """The class name for `classify`; a number without a name is a name itself. Raises BadValue."""
        if not self.names and (number := whole_number(value)) is not None and self.offset == 0:
            # 3.0 is what pandas writes for 3 beside an empty cell
            return str(number)
        return self._named(value)

    def number(self, value: Any) -> int | None:
        """The key of a label in `names`; None for a label by name."""
        if self.given and value in self.names.values():
            return None
        if isinstance(value, str) and not self.names:
            return None
        number = whole_number(value)
        return None if number is None else number + self.offset

    def _named(self, value: Any) -> str:
        if isinstance(value, str) and self.number(value) is None:
            name = spelled(value)
            if self.given and name not in self.names.values():
                known = ", ".join(self.names.values())
                raise BadValue(
                    f"its class {name!r} is not among the classes, which are {known}", "Fix it, or add the class."
                )
            return name
        number = self.number(value)
        if number is None:
            raise BadValue(f"its label is {value!r}", "Give a name, or the number of a class.")
        if not self.names:
            reason = f"its label is the number {number}, and nothing names the classes"
            raise BadValue(reason, "Give --classes NAME NAME ...")
        if number not in self.names:
            known = f"{min(self.names)} to {max(self.names)}"
            reason = f"its class {number} is not among the classes, which are {known}"
            raise BadValue(reason, "Fix it, or add the class.")
        return self.names[number]


def whole_number(value: Any) -> int | None:
    """The integer of 3, "3", 3.0 or "3.0"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value.split(".")[0]) if _WHOLE.fullmatch(value.strip()) else None
    if isinstance(value, float) and not value.is_integer() or not isinstance(value, int | float):
        return None
    return int(value)


def spelled(name: str) -> str:
    """A name, stripped and in Unicode's composed form (NFC); macOS writes the decomposed one."""
    return unicodedata.normalize("NFC", name).strip()
