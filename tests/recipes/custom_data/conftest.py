import pytest
from tiny_adapters import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_tokenizer):
    """A tiny PaLI-3 to start from."""
    return save_checkpoint("pali3", tiny_tokenizer, tmp_path_factory.mktemp("pali3"))
