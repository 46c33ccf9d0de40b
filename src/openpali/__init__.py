"""openpali: the PaLI vision-language models for Hugging Face Transformers, with every training stage."""

from openpali._version import __version__

__all__ = ["__version__"]
