"""Transformers' configuration of a big_vision checkpoint, read from the shapes of its arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PaliGemmaConfig, Siglip2Config, Siglip2VisionConfig, SiglipConfig, SiglipVisionConfig

from openpali.data.files.config import nearest, number
from openpali.modeling.captioner.configuration_captioner import CaptionerConfig
from openpali.scripts.big_vision.npz import Source

Sizes = dict[str, Any]

# Transformers' tables have a row for `<image>`, padded to a multiple of 64: 257152 + 64 in the released checkpoints
ROW_MULTIPLE = 64
# Gemma 2 27B alone divides queries by √(width / heads); every other Gemma by √(width of a head)
WIDTH_OF_27B = 4608

# values in the released files, by name and resolution
_PALIGEMMA = {"PaliGemma 3B": 2_923_335_408, "PaliGemma 2 3B": 3_032_094_960}
_PALIGEMMA |= {"PaliGemma 2 10B": 9_662_409_456, "PaliGemma 2 28B": 27_650_192_112}
KNOWN_SIZES = {203_155_970: "SigLIP B/16 at 224 px", 877_360_306: "SigLIP So400m/14 at 224 px"}
# resolutions differ by position embeddings of width 1152 alone
KNOWN_SIZES |= {
    count + ((px // 14) ** 2 - 16**2) * 1152: f"{name} at {px} px"
    for name, count in _PALIGEMMA.items()
    for px in (224, 448, 896)
}


def read_config(
    sources: Mapping[str, Source], settings: Sequence[str] = (), resolution: int | None = None
) -> PaliGemmaConfig | SiglipConfig | Siglip2Config | SiglipVisionConfig | Siglip2VisionConfig | CaptionerConfig:
    """The configuration with which Transformers' model has the shapes of the checkpoint.

    Args:
        sources: of the checkpoint.
        settings: `key=value` with nested keys, as in `text_config.final_logit_softcapping=null`.
        resolution: side of the image in pixels; the checkpoint's own if None.

    Raises:
        ValueError: if an array that defines a size is missing or has another number of axes, if the image side is not
            a multiple of the patch, or a setting names no field or has a value of the wrong type.
    """
    kind, sizes = _sizes(sources, resolution)
    try:
        known = kind(**sizes).to_dict()
        for setting in settings:
            _apply(setting, sizes, known)
        if kind is PaliGemmaConfig:
            sizes["vocab_size"] = sizes["text_config"]["vocab_size"]
        config = kind(**sizes)
    except StrictDataclassError as error:
        raise ValueError(f"--set: {' '.join(str(error).split())}") from error
    _check_rows(sources, config)
    return config


def _sizes(sources: Mapping[str, Source], resolution: int | None) -> tuple[Any, Sizes]:
    """Class of the configuration, and its values."""
    if any(key.startswith("llm/") for key in sources):
        return PaliGemmaConfig, _paligemma(sources, resolution)
    if any(key.startswith("txt/") for key in sources):
        image, text = _image(sources, "img/", resolution), _text(sources)
        kind = Siglip2Config if image["model_type"] == "siglip2_vision_model" else SiglipConfig
        return kind, {"vision_config": image, "text_config": text | {"model_type": f"{kind.model_type}_text_model"}}
    if "decoder/EmbedTargets/embedding" in sources:
        image = _image(sources, "encoder/", resolution)
        return CaptionerConfig, {"vision_config": image, "decoder_config": _caption_decoder(sources)}
    if "embedding/kernel" in sources:
        image = _image(sources, "", resolution)
        is_naflex = image.pop("model_type") == "siglip2_vision_model"
        return Siglip2VisionConfig if is_naflex else SiglipVisionConfig, image
    raise ValueError(
        "this is no PaliGemma, SigLIP or CapPa checkpoint of big_vision: none of llm/…, txt/…,"
        " decoder/EmbedTargets/embedding, embedding/kernel is in it;"
        f" it has {', '.join(sorted(sources)[:3]) or 'no arrays'}, …"
    )


def _shape(sources: Mapping[str, Source], key: str, axes: int) -> tuple[int, ...]:
    """Shape of a parameter that defines sizes."""
    if key not in sources:
        raise ValueError(f"{key} is missing: the file is incomplete or of another architecture")
    shape = sources[key].shape
    if len(shape) != axes:
        raise ValueError(f"{key} has shape {list(sources[key].shape)}, where {axes} axes are expected")
    return shape


def _encoder(sources: Mapping[str, Source], root: str) -> Sizes:
    """Sizes of either SigLIP tower's layers."""
    block = f"{root}encoderblock/"
    width, hidden = _shape(sources, f"{block}MlpBlock_0/Dense_0/kernel", 2)
    _, heads, _ = _shape(sources, f"{block}MultiHeadDotProductAttention_0/query/kernel", 3)
    layers = sources[f"{block}MlpBlock_0/Dense_0/kernel"].layers
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }


def _image(sources: Mapping[str, Source], root: str, resolution: int | None) -> Sizes:
    sizes = _encoder(sources, f"{root}Transformer/")
    sizes["vision_use_head"] = f"{root}MAPHead_0/probe" in sources
    kernel = sources.get(f"{root}embedding/kernel")
    if kernel is not None and len(kernel.shape) == 2:
        return sizes | _naflex(sources, root, resolution)
    height, width, _, _ = _shape(sources, f"{root}embedding/kernel", 4)
    _, positions, _ = _shape(sources, f"{root}pos_embedding", 3)
    side = round(positions**0.5)
    if height != width or side * side != positions:
        raise ValueError(
            f"{root}embedding/kernel has patches of {height}×{width} px, {root}pos_embedding {positions} positions:"
            " Transformers' SigLIP takes squares only"
        )
    if resolution is not None and (resolution < height or resolution % height):
        raise ValueError(f"--resolution {resolution} is no multiple of the patch, {height} px")
    return sizes | {
        "model_type": "siglip_vision_model",
        "image_size": resolution or side * height,
        "patch_size": height,
    }


def _naflex(sources: Mapping[str, Source], root: str, resolution: int | None) -> Sizes:
    if resolution is not None:
        raise ValueError("--resolution: a NaFlex tower takes images of any size; leave it out")
    values, _ = _shape(sources, f"{root}embedding/kernel", 2)
    height, width, _ = _shape(sources, f"{root}pos_embedding", 3)
    if height != width:
        raise ValueError(f"{root}pos_embedding is of {height}×{width} positions: Transformers has square ones only")
    patch = round((values / 3) ** 0.5)
    return {"model_type": "siglip2_vision_model", "patch_size": patch, "num_patches": height * width}


def _text(sources: Mapping[str, Source]) -> Sizes:
    rows, width = _shape(sources, "txt/Embed_0/embedding", 2)
    _, length, _ = _shape(sources, "txt/pos_embedding", 3)
    head = sources.get("txt/head/kernel")
    # texts end in EOS, id 1, and SigLIP 1 pads with it too; Gemma's tokenizer has a padding token
    pad = 0 if rows >= 256_000 else 1
    return _encoder(sources, "txt/Encoder_0/") | {
        "vocab_size": rows,
        "max_position_embeddings": length,
        "projection_size": head.shape[-1] if head else width,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": pad,
    }


def _caption_decoder(sources: Mapping[str, Source]) -> Sizes:
    """Sizes of a captioner's decoder. Its table has a row more than it has outputs if it knows a mask."""
    block = "decoder/EncDecBlock/"
    rows, width = _shape(sources, "decoder/EmbedTargets/embedding", 2)
    _, outputs = _shape(sources, "decoder/LogitsDense/kernel", 2)
    _, length, _ = _shape(sources, "pos_embedding_decoder", 3)
    _, heads, _ = _shape(sources, f"{block}SelfAttn/query/kernel", 3)
    return {
        "vocab_size": outputs,
        "mask_token": rows > outputs,
        "hidden_size": width,
        "intermediate_size": _shape(sources, f"{block}MLP/Dense_0/kernel", 2)[1],
        "num_attention_heads": heads,
        "num_hidden_layers": sources[f"{block}MLP/Dense_0/kernel"].layers,
        "max_position_embeddings": length,
        "use_bias": f"{block}MLP/Dense_0/bias" in sources,
    }


def _paligemma(sources: Mapping[str, Source], resolution: int | None) -> Sizes:
    image, text = _image(sources, "img/", resolution), _gemma(sources)
    rows, width = _shape(sources, "llm/embedder/input_embedding", 2)
    return {
        "vision_config": image,
        "text_config": text,
        "image_token_index": rows,
        "projection_dim": width,
        "hidden_size": width,
    }


def _gemma(sources: Mapping[str, Source]) -> Sizes:
    layers, attention = "llm/layers/", "llm/layers/attn/"
    rows, width = _shape(sources, "llm/embedder/input_embedding", 2)
    if f"{attention}qkv_einsum/w" in sources:
        _, heads, _, head_width = _shape(sources, f"{attention}qkv_einsum/w", 4)
        key_value_heads = heads
    else:
        heads, _, head_width = _shape(sources, f"{attention}q_einsum/w", 3)
        key_value_heads = _shape(sources, f"{attention}kv_einsum/w", 4)[1]
    sizes = {
        "model_type": "gemma",
        "vocab_size": -(-(rows + 1) // ROW_MULTIPLE) * ROW_MULTIPLE,
        "hidden_size": width,
        "intermediate_size": _shape(sources, f"{layers}mlp/linear", 2)[0],
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_width,
        "num_hidden_layers": sources[f"{layers}mlp/linear"].layers,
    }
    if f"{layers}post_attention_norm/scale" not in sources:
        return sizes
    return sizes | {
        "model_type": "gemma2",
        "query_pre_attn_scalar": width // heads if width == WIDTH_OF_27B else head_width,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        # big_vision has no sliding window; Transformers' Gemma 2 requires a number, which no layer uses
        "layer_types": ["full_attention"] * (sources[f"{layers}mlp/linear"].layers or 0),
        "sliding_window": 8192,
    }


def _apply(setting: str, sizes: Sizes, known: dict[str, Any]) -> None:
    """Set one `key=value` in the values of a configuration."""
    path, equals, value = setting.partition("=")
    if not equals:
        raise ValueError(f"--set {setting}: it has the form key=value")
    *folders, key = path.split(".")
    for folder in folders:
        if not isinstance(known.get(folder), dict):
            raise ValueError(f"--set {setting}: there is no {folder!r}{nearest(folder, known)}")
        known, sizes = known[folder], sizes.setdefault(folder, {})
    if key not in known:
        raise ValueError(f"--set {setting}: there is no {key!r}{nearest(key, known)}")
    try:
        sizes[key] = number(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ValueError(f"--set {setting}: the value is not valid YAML") from error


def _check_rows(sources: Mapping[str, Source], config: Any) -> None:
    rows = vocabulary_rows(sources)
    if config.model_type == "paligemma" and config.text_config.vocab_size < rows:
        raise ValueError(
            f"--set text_config.vocab_size={config.text_config.vocab_size}: the checkpoint has {rows} rows, and none"
            " can be left out"
        )


def vocabulary_rows(sources: Mapping[str, Source]) -> int:
    """Trained rows of the token embeddings; 0 for an image tower alone."""
    tables = [sources[key] for key in ("llm/embedder/input_embedding", "txt/Embed_0/embedding") if key in sources]
    return tables[0].shape[0] if tables else 0
