"""The checkpoint that an option names, checked before the run begins."""

from pathlib import Path

from openpali.data.files.config import ConfigError
from openpali.modeling.checkpoints import is_folder_name, no_folder
from openpali.modeling.shipped import shipped


def check_checkpoint(name: str | None, key: str) -> str:
    """The folder or Hub name of a checkpoint, as the option `key` gives it; the folder of a shipped one.

    Raises:
        ConfigError: it is missing, or names a folder that does not exist or holds no model.
    """
    if not name:
        raise ConfigError(f"{key} is missing: give --{key} with the folder or Hub name of a checkpoint")
    name = shipped(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"{key}: {name} holds no model (no config.json); has its run finished?")
    elif is_folder_name(name):
        raise ConfigError(f"{key}: {no_folder(name)}; or train that stage first")
    return name
