"""However a checkpoint is stored, the weights that come out are the same."""

import json

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, assert_same_weights, load, parameters, save, unstacked, weights

from openpali.scripts.convert_big_vision import main


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("root", ["params/", "opt/target/", ""])
def test_every_way_of_storing_gives_the_same_weights(root, compressed, tmp_path):
    arrays = {key.replace("params/", root): value for key, value in parameters("paligemma2_tiny").items()}
    # columns first, as numpy stores a transposed array
    arrays[f"{root}llm/layers/mlp/linear"] = np.asfortranarray(arrays[f"{root}llm/layers/mlp/linear"])
    arrays[f"{root}img/head/kernel"] = np.asfortranarray(arrays[f"{root}img/head/kernel"])
    save(tmp_path / "stacked.npz", arrays, compressed)
    save(tmp_path / "apart.npz", unstacked(arrays), compressed)
    main([str(FIXTURES / "paligemma2_tiny.npz"), str(tmp_path / "plain")])
    for name in ("stacked", "apart"):
        main([str(tmp_path / f"{name}.npz"), str(tmp_path / name)])
        assert_same_weights(tmp_path / name, tmp_path / "plain")


def test_bfloat16_in_two_meaningless_bytes(tmp_path):
    arrays = parameters("paligemma1_tiny")
    rounded = {key: torch.from_numpy(value).bfloat16() for key, value in arrays.items()}
    save(tmp_path / "bf16.npz", {key: value.view(torch.int16).numpy().view("V2") for key, value in rounded.items()})
    main([str(tmp_path / "bf16.npz"), str(tmp_path / "out")])
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "cast"), "--dtype", "bfloat16"])
    found, cast = weights(tmp_path / "out"), weights(tmp_path / "cast")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    embedding = "language_model.model.embed_tokens.weight"
    for name in found.keys() - {embedding}:
        assert torch.equal(found[name], cast[name]), name
    assert torch.equal(found[embedding][:512], cast[embedding][:512])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_float16_stays_and_float64_becomes_float32(tmp_path):
    for stored, written in (("float16", torch.float16), ("float64", torch.float32)):
        arrays = {key: value.astype(stored) for key, value in parameters("paligemma1_tiny").items()}
        save(tmp_path / f"{stored}.npz", arrays)
        main([str(tmp_path / f"{stored}.npz"), str(tmp_path / stored)])
        assert {value.dtype for value in weights(tmp_path / stored).values()} == {written}


def test_one_matrix_for_all_heads(tmp_path):
    """Heads that share no keys are stored as one array of queries, keys and values."""
    arrays = parameters("paligemma1_tiny")
    layers, attention = 2, "params/llm/layers/attn/"
    rng = np.random.default_rng(0)
    joined = rng.normal(size=(layers, 3, 4, 64, 16)).astype(np.float32)
    apart = arrays | {f"{attention}q_einsum/w": joined[:, 0], f"{attention}kv_einsum/w": joined[:, 1:]}
    together = {key: value for key, value in apart.items() if not key.startswith(f"{attention}q_")}
    together = {key: value for key, value in together.items() if not key.startswith(f"{attention}kv_")}
    together[f"{attention}qkv_einsum/w"] = joined
    for name, content in (("apart", apart), ("together", together)):
        main([str(save(tmp_path / f"{name}.npz", content)), str(tmp_path / name)])
    assert_same_weights(tmp_path / "apart", tmp_path / "together")
    assert load(tmp_path / "together").config.text_config.num_key_value_heads == 4


def test_files_of_a_size(tmp_path):
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "one")])
    main([str(FIXTURES / "paligemma1_tiny.npz"), str(tmp_path / "many"), "--max_shard_size", "100KB"])
    files = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * index["metadata"]["total_parameters"]
    assert set(index["weight_map"].values()) == set(files)
    # the largest array alone is more than 100 KB
    assert sorted(file.stat().st_size for file in (tmp_path / "many").glob("*.safetensors"))[-2] < 110_000
    assert_same_weights(tmp_path / "many", tmp_path / "one")
    load(tmp_path / "many")
