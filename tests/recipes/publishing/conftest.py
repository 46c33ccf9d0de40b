"""A finished run of each family, and a Hub on this machine."""

import gc
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from loopback_hub import LargeFiles, loopback_hub
from tiny_adapters import save_checkpoint

from openpali.recipes import transfer

EMOJI = "{name: emoji, split: train, size: 32, concepts: 3, objects: [1, 1], length: 40}"
OPTIONS = ["--config", "transfers/what", "--source", EMOJI, "--use_cpu", "true", "--tensorboard", "false"]
OPTIONS += ["--per_device_train_batch_size", "4", "--max_steps", "3", "--eval_steps", "3", "--eval_limit", "2"]
OPTIONS += ["--test_limit", "4", "--dataloader_num_workers", "0", "--logging_steps", "1", "--task.max_new_tokens", "6"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_tokenizer):
    """Folders of runs by family, and what the runs started from."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for family in ("pali3", "paligemma"):
        base = save_checkpoint(family, tiny_tokenizer, folder / f"base-{family}")
        found[family], found[f"base-{family}"] = folder / family, base
        transfer.main([*OPTIONS, "--model", str(base), "--output_dir", str(folder / family)])
        gc.collect()
    return found


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """This process knows no other Hub; its `repositories` and `large` files, and `token`, which logs in."""
    large = LargeFiles()
    with loopback_hub(large) as (address, repositories):
        monkeypatch.setenv("NO_PROXY", "*")
        changed = {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        changed |= {"HF_HUB_CACHE": str(tmp_path / "cache")}
        changed["HUGGINGFACE_CO_URL_TEMPLATE"] = address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in changed.items():
            monkeypatch.setattr(constants, name, value)
        # sessions of before would refuse every request
        huggingface_hub.close_session()
        monkeypatch.setenv("HF_TOKEN", "hf_loopback")
        token = lambda value: monkeypatch.setenv("HF_TOKEN", value)  # noqa: E731
        yield SimpleNamespace(address=address, repositories=repositories, large=large, token=token)
    huggingface_hub.close_session()
