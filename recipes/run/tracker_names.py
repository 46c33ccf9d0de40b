"""The trackers that `report_to` names, checked before data and models are loaded."""

from collections.abc import Sequence

from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import get_available_reporting_integrations

from openpali.data.files.config import ConfigError

TENSORBOARD = "tensorboard"
# whose packages are an extra of openpali
EXTRA = ("trackio", "wandb")


def split_names(given: None | str | Sequence[str]) -> list[str]:
    """The names in a list, or in a text with commas between them."""
    words = [given] if isinstance(given, str) else list(given or ["none"])
    return [name.strip() for word in words for name in str(word).split(",") if name.strip()]


def check_trackers(names: Sequence[str]) -> None:
    """Raise an error where a tracker is unknown or its package is missing.

    Raises:
        ValueError: Transformers knows no such tracker.
        ConfigError: the package is not installed.
    """
    get_reporting_integration_callbacks(list(names))
    found = get_available_reporting_integrations()
    if missing := [name for name in names if name in EXTRA and name not in found]:
        raise ConfigError(f'report_to: {missing[0]} is not installed: pip install "openpali[trackers]"')
