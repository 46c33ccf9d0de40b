"""What the tests of the converter share: fixtures as arrays, rewritten checkpoints, a tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

FIXTURES = Path(__file__).parents[2] / "fixtures"


def fixture(name: str) -> dict[str, np.ndarray]:
    """Every array of a fixture that holds numbers."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: file[key] for key in file.files if key != "meta_json"}


def parameters(name: str) -> dict[str, np.ndarray]:
    """The parameters alone, with their root."""
    return {key: value for key, value in fixture(name).items() if key.startswith("params/")}


def unstacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layers apart, as big_vision saves them without scan."""
    apart = {}
    for key, value in arrays.items():
        for stem, joint in (("encoderblock/", "encoderblock_"), ("llm/layers/", "llm/layers/")):
            if stem in key:
                before, after = key.split(stem)
                apart |= {f"{before}{joint}{layer}/{after}": part for layer, part in enumerate(value)}
                break
        else:
            apart[key] = value
    return apart


def save(path: Path, arrays: dict[str, np.ndarray], compressed: bool = False) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every parameter of a folder, by its name in the files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = load_file(file)
        assert not found.keys() & part.keys()
        found |= part
    return found


def assert_same_weights(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def load(folder: Path, kind: Any = AutoModelForImageTextToText) -> Any:
    """Stock Transformers' model; every name must have been found."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def pixels(arrays: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(arrays["in/image"]).permute(0, 3, 1, 2)


def save_tokenizer(folder: Path, size: int) -> Path:
    """A byte tokenizer of `size` tokens with Gemma's special ids: pad 0, eos 1, bos 2."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<unused{number}>" for number in range(size - len(tokens))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)
    return folder
