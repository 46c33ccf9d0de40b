"""Files that are torn, hostile or of another kind end with a message, and leave nothing behind."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, parameters, save

from openpali.scripts import convert_big_vision
from openpali.scripts.big_vision.npz import Checkpoint
from openpali.scripts.convert_big_vision import main

NAME = "params/img/head/kernel"


def refused(tmp_path, arrays_or_path, *options):
    """The message of a conversion that must fail; nothing of it may be left."""
    path = arrays_or_path
    if isinstance(path, dict):
        path = save(tmp_path / "in.npz", path)
    with pytest.raises(SystemExit) as failure:
        main([str(path), str(tmp_path / "out"), *options])
    assert not list(tmp_path.glob("out*"))
    return str(failure.value)


def member(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def rewritten(tmp_path, change, name=NAME):
    """The small PaliGemma with the bytes of one member changed; the archive itself is whole."""
    with zipfile.ZipFile(FIXTURES / "paligemma1_tiny.npz") as old, zipfile.ZipFile(tmp_path / "in.npz", "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(content) if info.filename == f"{name}.npy" else content)
    return tmp_path / "in.npz"


@pytest.mark.parametrize("compressed", [False, True])
def test_every_array_comes_back(tmp_path, compressed):
    arrays = parameters("paligemma2_tiny")
    with Checkpoint(save(tmp_path / "in.npz", arrays, compressed)) as checkpoint:
        for key, source in checkpoint.sources.items():
            found = list(checkpoint.tensors(source))
            stored = torch.from_numpy(arrays[f"params/{key}"])
            assert source.size == stored.numel()
            assert torch.equal(torch.stack(found) if source.layers else found[0], stored), key


def test_pieces_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr("openpali.scripts.big_vision.npz.PIECE", 1000)
    arrays = parameters("paligemma1_tiny")
    with Checkpoint(save(tmp_path / "in.npz", arrays)) as checkpoint:
        (table,) = checkpoint.tensors(checkpoint.sources["llm/embedder/input_embedding"])
    assert np.array_equal(table.numpy(), arrays["params/llm/embedder/input_embedding"])


def test_torn_file(tmp_path):
    whole = (FIXTURES / "paligemma1_tiny.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[: len(whole) // 2])
    message = refused(tmp_path, tmp_path / "torn.npz")
    assert "torn.npz is no complete .npz file" in message
    assert "fetch it again" in message


def test_flipped_byte(tmp_path):
    path = save(tmp_path / "in.npz", parameters("paligemma1_tiny"))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(f"{NAME}.npy").header_offset
    content[offset + 2000] ^= 1
    path.write_bytes(content)
    message = refused(tmp_path, path)
    assert f"the data of {NAME} are damaged" in message


@pytest.mark.parametrize("change", [lambda content: content[:-8], lambda content: content + b"more"])
def test_data_of_another_length_than_the_header_says(tmp_path, change):
    assert f"the data of {NAME} are damaged" in refused(tmp_path, rewritten(tmp_path, change))


def test_header_that_is_none(tmp_path):
    assert f"{NAME} cannot be read" in refused(tmp_path, rewritten(tmp_path, lambda content: b"nonsense"))


class Trap:
    """Unpickling it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_objects_are_never_unpickled(tmp_path):
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(tmp_path / "sprung")
    assert b"sprung" in pickle.dumps(trap)
    message = refused(tmp_path, parameters("paligemma1_tiny") | {NAME: trap})
    assert f"{NAME} holds Python objects" in message
    assert not (tmp_path / "sprung").exists()


def test_numbers_of_another_kind(tmp_path):
    message = refused(tmp_path, parameters("paligemma1_tiny") | {NAME: np.zeros((32, 64), np.int32)})
    assert f"{NAME} has dtype <i4" in message


@pytest.mark.parametrize("name", ["../evil.npy", "/evil.npy", "params/../../evil.npy", "params\\evil.npy"])
def test_members_that_would_leave_the_folder(tmp_path, name):
    path = save(tmp_path / "in.npz", parameters("paligemma1_tiny"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), member(np.zeros(1)))
    assert "would leave the folder" in refused(tmp_path, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_key_twice(tmp_path):
    path = save(tmp_path / "in.npz", parameters("paligemma1_tiny"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{NAME}.npy", member(np.zeros((32, 64), np.float32)))
    assert f"holds {NAME} twice" in refused(tmp_path, path)


def test_a_layer_both_stacked_and_apart(tmp_path):
    more = {"params/llm/layers/0/mlp/linear": np.zeros((128, 64), np.float32)}
    assert "both stacked and for single layers" in refused(tmp_path, parameters("paligemma1_tiny") | more)


def test_a_layer_that_is_not_there(tmp_path):
    arrays = parameters("siglip_tiny")
    bias = "params/txt/Encoder_0/encoderblock_{}/LayerNorm_0/bias"
    assert "has no layer 0" in refused(tmp_path, {k: v for k, v in arrays.items() if k != bias.format(0)})
    message = refused(tmp_path, {k: v for k, v in arrays.items() if k != bias.format(1)})
    assert "text_model.encoder.layers.1.layer_norm1.bias" in message


def test_an_archive_of_other_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        archive.writestr("weights.pkl", b"")
    assert "'weights.pkl' is no array" in refused(tmp_path, tmp_path / "in.npz")


def test_a_file_that_is_not_there(tmp_path):
    assert "absent.npz" in refused(tmp_path, tmp_path / "absent.npz")


def test_a_folder_with_content_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(SystemExit, match="is not empty"):
        main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out")])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "out" / "mine").unlink()
    main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out")])
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_what_a_stopped_conversion_left_is_named(tmp_path):
    (tmp_path / "out.tmp").mkdir()
    with pytest.raises(SystemExit, match=r"out\.tmp was left by a conversion that was stopped"):
        main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_stop_in_the_middle_leaves_nothing(tmp_path, monkeypatch, error):
    written = []

    def fail_at_the_third(tensors, path, metadata):
        written.append(path)
        assert path.parent.name == "out.tmp"
        if len(written) == 3:
            raise error
        path.write_bytes(b"")

    monkeypatch.setattr(convert_big_vision, "save_file", fail_at_the_third)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main([str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out"), "--max_shard_size", "20KB"])
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(convert_big_vision.shutil, "disk_usage", lambda folder: usage)
    assert "1,000 bytes free" in refused(tmp_path, FIXTURES / "siglip_tiny.npz")
