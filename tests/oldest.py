"""Prints the lower bounds of setup.cfg as exact versions, for pip's `-c`: what `make test-oldest` installs."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement


def lower_bounds() -> list[str]:
    """`name==version` of every requirement and extra that has one."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg", "utf-8")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    found = {}
    for line in "\n".join(texts).splitlines():
        if line and not line.startswith(("%", "#")):
            requirement = Requirement(line)
            for bound in requirement.specifier:
                if bound.operator == ">=":
                    found[requirement.name] = bound.version
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lower_bounds()))
