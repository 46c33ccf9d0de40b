"""Configurations, names and shapes of checkpoints of every published size, and mistakes in them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from big_vision_files import FIXTURES, parameters, save, save_tokenizer
from big_vision_shapes import gemma, image_tower, pooling_head, source, tower

from openpali.scripts.big_vision.arrays import pad_vocabulary
from openpali.scripts.big_vision.configs import KNOWN_SIZES
from openpali.scripts.big_vision.plan import make_plan, published_name
from openpali.scripts.convert_big_vision import main, size_in_bytes
from openpali_cli import main as command

# width, layers, MLP, heads, key-value heads, width of a head, post-norms
GEMMAS = {
    "PaliGemma 3B": (2048, 18, 16384, 8, 1, 256, False),
    "PaliGemma 2 3B": (2304, 26, 9216, 8, 4, 256, True),
    "PaliGemma 2 10B": (3584, 42, 14336, 16, 8, 256, True),
    "PaliGemma 2 28B": (4608, 46, 36864, 32, 16, 128, True),
}
SO400M = (1152, 4304, 16, 27)


def paligemma(name, px=224, rows=257152):
    width, layers, hidden, heads, key_value_heads, head, second = GEMMAS[name]
    return (
        image_tower(*SO400M, patch=14, px=px)
        | {"img/head/kernel": source(1152, width), "img/head/bias": source(width)}
        | gemma(rows, width, layers, hidden, heads, key_value_heads, head, second)
    )


def siglip(sizes, patch, px, rows, length):
    width, hidden, heads, layers = sizes
    return (
        image_tower(*sizes, patch=patch, px=px)
        | pooling_head(width, hidden, heads)
        | tower("txt/Encoder_0/", width, hidden, heads, layers)
        | {
            "txt/Embed_0/embedding": source(rows, width),
            "txt/pos_embedding": source(1, length, width),
            "txt/head/kernel": source(width, width),
            "txt/head/bias": source(width),
            "t": source(1),
            "b": source(1),
        }
    )


def count(sources):
    return sum(value.size for value in sources.values())


@pytest.mark.parametrize(
    ("name", "px", "parameters_in_file", "query_scale"),
    [
        ("PaliGemma 3B", 224, 2_923_335_408, None),
        ("PaliGemma 3B", 448, 2_924_220_144, None),
        ("PaliGemma 3B", 896, 2_927_759_088, None),
        ("PaliGemma 2 3B", 224, 3_032_094_960, 256),
        ("PaliGemma 2 10B", 224, 9_662_409_456, 256),
        ("PaliGemma 2 28B", 224, 27_650_192_112, 144),
    ],
)
def test_published_paligemma(name, px, parameters_in_file, query_scale):
    sources = paligemma(name, px)
    assert count(sources) == parameters_in_file
    assert KNOWN_SIZES[parameters_in_file] == f"{name} at {px} px"
    plan = make_plan(sources)
    width = GEMMAS[name][0]
    # `<image>` and the rows that make it a multiple of 64
    assert plan.values == parameters_in_file + 64 * width == sum(p.numel() for p in plan.model.parameters())
    config = plan.model.config
    assert (config.image_token_index, config.vocab_size, config.text_config.vocab_size) == (257152, 257216, 257216)
    assert (config.vision_config.image_size, config.text_config.num_image_tokens) == (px, (px // 14) ** 2)
    if query_scale is not None:
        assert config.text_config.query_pre_attn_scalar == query_scale


def test_published_siglip():
    base = siglip((768, 3072, 12, 12), 16, 224, 32000, 64)
    assert count(base) == 203_155_970
    assert KNOWN_SIZES[203_155_970] == "SigLIP B/16 at 224 px"
    assert make_plan(base).values == 203_155_970
    large = siglip(SO400M, 14, 224, 32000, 16)
    assert count(large) == 877_360_306
    config = make_plan(large).model.config
    assert KNOWN_SIZES[877_360_306] == "SigLIP So400m/14 at 224 px"
    assert (config.text_config.max_position_embeddings, config.text_config.pad_token_id) == (16, 1)
    multilingual = make_plan(siglip((768, 3072, 12, 12), 16, 256, 256_000, 64)).model.config
    assert (multilingual.text_config.vocab_size, multilingual.text_config.pad_token_id) == (256_000, 0)


def test_a_text_tower_of_another_width():
    """The largest SigLIP 2 has a smaller text tower with a wider head."""
    sources = siglip((1536, 6144, 16, 40), 16, 256, 256_000, 64)
    sources = {key: value for key, value in sources.items() if not key.startswith("txt/")}
    sources |= tower("txt/Encoder_0/", 1152, 4304, 16, 27) | {
        "txt/Embed_0/embedding": source(256_000, 1152),
        "txt/pos_embedding": source(1, 64, 1152),
        "txt/head/kernel": source(1152, 1536),
        "txt/head/bias": source(1536),
    }
    assert make_plan(sources).values == count(sources)


@pytest.mark.parametrize("rows", [512, 575, 576])
def test_rows_are_a_multiple_of_64_with_room_for_the_image_token(rows):
    config = make_plan(paligemma("PaliGemma 3B", rows=rows)).model.config
    assert config.image_token_index == rows < config.vocab_size
    assert config.vocab_size == {512: 576, 575: 576, 576: 640}[rows]


def test_padding_rows_are_the_mean():
    table = torch.randn(10_000, 3)
    padded = pad_vocabulary(table, 10_010)
    assert torch.equal(padded[:10_000], table)
    torch.testing.assert_close(padded[10_000:], table.double().mean(0).float().expand(10, 3))
    assert pad_vocabulary(table, 10_000) is table


def test_published_names():
    names = {published_name(name) for name in make_plan(paligemma("PaliGemma 3B")).shapes}
    assert "vision_tower.vision_model.encoder.layers.26.self_attn.q_proj.weight" in names
    assert "language_model.model.layers.17.mlp.gate_proj.weight" in names
    assert "multi_modal_projector.linear.bias" in names
    assert not any(name.startswith(("model.", "lm_head")) for name in names)


def failure(name, drop=(), options=(), tmp_path=None, **more):
    arrays = {key: value for key, value in parameters(name).items() if key not in drop} | more
    with pytest.raises(SystemExit) as error:
        main([str(save(tmp_path / "in.npz", arrays)), str(tmp_path / "out"), *options])
    assert not list(tmp_path.glob("out*"))
    return str(error.value)


def test_missing_and_unknown_keys(tmp_path):
    norm = "params/llm/layers/pre_ffw_norm/scale"
    assert "llm/layers/pre_ffw_norm/scale is missing" in failure("paligemma1_tiny", [norm], tmp_path=tmp_path)
    norm = "params/llm/layers/post_ffw_norm/scale"
    assert "llm/layers/post_ffw_norm/scale is missing" in failure("paligemma2_tiny", [norm], tmp_path=tmp_path)
    table = "params/llm/embedder/input_embedding"
    assert "llm/embedder/input_embedding is missing" in failure("paligemma1_tiny", [table], tmp_path=tmp_path)
    assert "b is missing" in failure("siglip_tiny", ["params/b"], tmp_path=tmp_path)
    more = {"params/img/cls": np.zeros((1, 1, 32), np.float32)}
    assert "img/cls is not known" in failure("siglip_tiny", tmp_path=tmp_path, **more)


def test_shapes_that_contradict_each_other(tmp_path):
    more = {"params/img/head/bias": np.zeros(63, np.float32)}
    message = failure("paligemma1_tiny", tmp_path=tmp_path, **more)
    assert "img/head/bias gives model.multi_modal_projector.linear.bias the shape [63]" in message
    assert "has [64]" in message
    more = {"params/llm/layers/pre_ffw_norm/scale": np.zeros((3, 64), np.float32)}
    message = failure("paligemma1_tiny", tmp_path=tmp_path, **more)
    assert "layers.2.post_attention_layernorm.weight the shape [64]" in message
    more = {"params/llm/layers/pre_ffw_norm/scale": np.zeros((1, 64), np.float32)}
    message = failure("paligemma1_tiny", tmp_path=tmp_path, **more)
    assert "layers.1.post_attention_layernorm.weight" in message
    more = {"params/img/pos_embedding": np.zeros((1, 5, 32), np.float32)}
    assert "5 positions" in failure("paligemma1_tiny", tmp_path=tmp_path, **more)


def test_a_checkpoint_of_something_else(tmp_path):
    save(tmp_path / "in.npz", {"params/stem/kernel": np.zeros(3, np.float32)})
    with pytest.raises(SystemExit, match="no PaliGemma, SigLIP or CapPa checkpoint.*stem/kernel"):
        main([str(tmp_path / "in.npz"), str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "text_config.final_logit_softcaping=null"], "did you mean 'final_logit_softcapping'"),
        (["--set", "txt_config.vocab_size=1"], "did you mean 'text_config'"),
        (["--set", "text_config.vocab_size"], "the form key=value"),
        (["--set", "text_config.vocab_size=many"], "vocab_size"),
        (["--set", "text_config.vocab_size=500"], "the checkpoint has 512 rows"),
        (["--set", "text_config.hidden_size=32"], "the shape"),
        (["--set", "vision_config.num_hidden_layers=3"], "has too few layers"),
        (["--resolution", "30"], "no multiple of the patch, 14 px"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    assert message in failure("paligemma2_tiny", options=options, tmp_path=tmp_path)


def test_options_of_the_wrong_family(tmp_path):
    message = failure("siglip2_naflex_tiny", options=["--resolution", "64"], tmp_path=tmp_path)
    assert "images of any size" in message
    tokenizer = save_tokenizer(tmp_path / "tokenizer", 300)
    message = failure("siglip2_naflex_tiny", options=["--tokenizer", str(tokenizer)], tmp_path=tmp_path)
    assert "takes no texts" in message


def test_sizes_of_files():
    assert [size_in_bytes(text) for text in ("2GB", "1.5 mb", "300")] == [2_000_000_000, 1_500_000, 300]


def test_the_verb_is_there(tmp_path, capsys):
    assert command(["convert", str(FIXTURES / "siglip_tiny.npz"), str(tmp_path / "out")]) == 0
    assert "67,202 parameters, which is none of the known published counts" in capsys.readouterr().out


def test_the_page_names_the_options_there_are(capsys):
    page = (Path(__file__).parents[3] / "docs" / "conversion.md").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    there = set(re.findall(r"--[a-z_]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"--[a-z_]+", page)) == there
