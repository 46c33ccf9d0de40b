"""Rules from big_vision's parameters to Transformers' names.

A `Rule` has arrays of the checkpoint, their names in Transformers, and the conversion between them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from openpali.modeling.resolution import resize_positions
from openpali.scripts.big_vision.arrays import (
    flat,
    gate_and_up,
    heads_apart,
    heads_first,
    identity_head,
    into_heads,
    joined_biases,
    joined_kernels,
    out_of_heads,
    pad_vocabulary,
    patch_kernel,
    same,
    transposed,
)

Convert = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rule:
    """Arrays of the checkpoint and the parameters they become.

    Attributes:
        sources: keys of the checkpoint.
        targets: names in Transformers' model, with `{layer}` where the sources have layers.
        convert: from the sources' arrays (of one layer) to the targets' in their order.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    convert: Convert

    def apply(self, arrays: tuple[Tensor, ...], layer: int) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each target."""
        values = self.convert(*arrays)
        for target, value in zip(self.targets, values if isinstance(values, tuple) else (values,), strict=True):
            yield target.format(layer=layer), value


def paligemma_rules(config: Any, keys: Mapping[str, Any]) -> list[Rule]:
    """Rules of a PaliGemma checkpoint."""
    text = "model.language_model"
    padded = partial(pad_vocabulary, rows=config.text_config.vocab_size)
    return [
        *_image_rules("img/", "model.vision_tower.", config.vision_config),
        *_dense("img/head", "model.multi_modal_projector.linear"),
        Rule(("llm/embedder/input_embedding",), (f"{text}.embed_tokens.weight",), padded),
        *_gemma_rules(f"{text}.layers.{{layer}}.", "llm/layers/attn/qkv_einsum/w" in keys, config.text_config),
        Rule(("llm/final_norm/scale",), (f"{text}.norm.weight",), same),
    ]


def siglip_rules(config: Any, keys: Mapping[str, Any]) -> list[Rule]:
    """Rules of a SigLIP checkpoint with both towers."""
    text = "text_model."
    rules = [
        *_image_rules("img/", "vision_model.", config.vision_config),
        Rule(("txt/Embed_0/embedding",), (f"{text}embeddings.token_embedding.weight",), same),
        Rule(("txt/pos_embedding",), (f"{text}embeddings.position_embedding.weight",), lambda table: table[0]),
        *_encoder_rules("txt/Encoder_0/", text),
        *_norm("txt/Encoder_0/encoder_norm", f"{text}final_layer_norm"),
        Rule(("t",), ("logit_scale",), flat),
        Rule(("b",), ("logit_bias",), flat),
    ]
    if "txt/head/kernel" in keys:
        return [*rules, *_dense("txt/head", f"{text}head")]
    # one release has no head on its text tower; Transformers' model gets an identity
    return [
        *rules,
        Rule(
            ("txt/Encoder_0/encoder_norm/scale",),
            (f"{text}head.weight", f"{text}head.bias"),
            identity_head,
        ),
    ]


def image_rules(config: Any, keys: Mapping[str, Any]) -> list[Rule]:
    """Rules of an image tower alone."""
    del keys
    return _image_rules("", "", config)


def captioner_rules(config: Any, keys: Mapping[str, Any]) -> list[Rule]:
    """Rules of a CapPa checkpoint."""
    del keys
    return [
        *_image_rules("encoder/", "vision_model.", config.vision_config),
        Rule(("decoder/EmbedTargets/embedding",), ("decoder.tokens.weight",), same),
        Rule(("pos_embedding_decoder",), ("decoder.positions.weight",), lambda table: table[0]),
        *_caption_block_rules(config.decoder_config.use_bias),
        *_norm("decoder/LayerNorm", "decoder.norm"),
        *_dense("decoder/LogitsDense", "decoder.logits"),
    ]


def _caption_block_rules(bias: bool) -> list[Rule]:
    """Rules of the layers of a captioner's decoder, whose attention has no biases."""
    source, layer = "decoder/EncDecBlock/", "decoder.layers.{layer}."
    rules = [
        *(rule for i in (1, 2, 3) for rule in _norm(f"{source}LayerNorm{i}", f"{layer}layer_norm{i}")),
        *(rule for i in (0, 1) for rule in _dense(f"{source}MLP/Dense_{i}", f"{layer}mlp.fc{i + 1}")),
    ]
    for theirs, ours in (("SelfAttn", "self_attn"), ("CrossAttn", "cross_attn")):
        for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
            target = f"{layer}{ours}.{short}_proj.weight"
            rules.append(Rule((f"{source}{theirs}/{name}/kernel",), (target,), into_heads))
        rules.append(Rule((f"{source}{theirs}/out/kernel",), (f"{layer}{ours}.out_proj.weight",), out_of_heads))
    return [rule for rule in rules if bias or not rule.sources[0].endswith("/bias")]


def _image_rules(source: str, target: str, config: Any) -> list[Rule]:
    positions = f"{target}embeddings.position_embedding.weight"
    if config.model_type == "siglip2_vision_model":
        embedding = [
            Rule((f"{source}embedding/kernel",), (f"{target}embeddings.patch_embedding.weight",), transposed),
            Rule((f"{source}pos_embedding",), (positions,), lambda table: table.flatten(0, 1)),
        ]
    else:
        side = config.image_size // config.patch_size
        embedding = [
            Rule((f"{source}embedding/kernel",), (f"{target}embeddings.patch_embedding.weight",), patch_kernel),
            Rule((f"{source}pos_embedding",), (positions,), lambda table: resize_positions(table[0], side)),
        ]
    return [
        *embedding,
        Rule((f"{source}embedding/bias",), (f"{target}embeddings.patch_embedding.bias",), same),
        *_encoder_rules(f"{source}Transformer/", target),
        *_norm(f"{source}Transformer/encoder_norm", f"{target}post_layernorm"),
        *(_pooling_rules(f"{source}MAPHead_0/", f"{target}head.") if config.vision_use_head else []),
    ]


def _pooling_rules(source: str, target: str) -> list[Rule]:
    attention = f"{source}MultiHeadDotProductAttention_0/"
    kernels, biases = (tuple(f"{attention}{name}/{part}" for name in ("query", "key", "value")) for part in _DENSE)
    return [
        Rule((f"{source}probe",), (f"{target}probe",), same),
        Rule(kernels, (f"{target}attention.in_proj_weight",), joined_kernels),
        Rule(biases, (f"{target}attention.in_proj_bias",), joined_biases),
        Rule((f"{attention}out/kernel",), (f"{target}attention.out_proj.weight",), out_of_heads),
        Rule((f"{attention}out/bias",), (f"{target}attention.out_proj.bias",), same),
        *_norm(f"{source}LayerNorm_0", f"{target}layernorm"),
        *_dense(f"{source}MlpBlock_0/Dense_0", f"{target}mlp.fc1"),
        *_dense(f"{source}MlpBlock_0/Dense_1", f"{target}mlp.fc2"),
    ]


def _encoder_rules(source: str, target: str) -> list[Rule]:
    """Rules of the layers of either SigLIP tower."""
    block, layer = f"{source}encoderblock/", f"{target}encoder.layers.{{layer}}."
    attention = f"{block}MultiHeadDotProductAttention_0/"
    rules = [
        *_norm(f"{block}LayerNorm_0", f"{layer}layer_norm1"),
        *_norm(f"{block}LayerNorm_1", f"{layer}layer_norm2"),
        *_dense(f"{block}MlpBlock_0/Dense_0", f"{layer}mlp.fc1"),
        *_dense(f"{block}MlpBlock_0/Dense_1", f"{layer}mlp.fc2"),
        Rule((f"{attention}out/kernel",), (f"{layer}self_attn.out_proj.weight",), out_of_heads),
        Rule((f"{attention}out/bias",), (f"{layer}self_attn.out_proj.bias",), same),
    ]
    for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
        projection = f"{layer}self_attn.{short}_proj"
        rules.append(Rule((f"{attention}{name}/kernel",), (f"{projection}.weight",), into_heads))
        rules.append(Rule((f"{attention}{name}/bias",), (f"{projection}.bias",), flat))
    return rules


def _gemma_rules(layer: str, joined: bool, config: Any) -> list[Rule]:
    """Rules of the layers of Gemma 1 or 2. Norms store their distance from 1 there as in Transformers."""
    source = "llm/layers/"
    query, key, value = (f"{layer}self_attn.{name}_proj.weight" for name in "qkv")
    norms = {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    if config.model_type == "gemma2":
        norms |= {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
        norms["pre_ffw_norm"] = "pre_feedforward_layernorm"
    attention = [
        Rule((f"{source}attn/q_einsum/w",), (query,), heads_first),
        Rule((f"{source}attn/kv_einsum/w",), (key, value), heads_apart),
    ]
    if joined:
        attention = [Rule((f"{source}attn/qkv_einsum/w",), (query, key, value), heads_apart)]
    return [
        *attention,
        Rule((f"{source}attn/attn_vec_einsum/w",), (f"{layer}self_attn.o_proj.weight",), out_of_heads),
        Rule(
            (f"{source}mlp/gating_einsum",),
            (f"{layer}mlp.gate_proj.weight", f"{layer}mlp.up_proj.weight"),
            gate_and_up,
        ),
        Rule((f"{source}mlp/linear",), (f"{layer}mlp.down_proj.weight",), transposed),
        *(Rule((f"{source}{old}/scale",), (f"{layer}{new}.weight",), same) for old, new in norms.items()),
    ]


_DENSE = ("kernel", "bias")


def _dense(source: str, target: str) -> list[Rule]:
    return [
        Rule((f"{source}/kernel",), (f"{target}.weight",), transposed),
        Rule((f"{source}/bias",), (f"{target}.bias",), same),
    ]


def _norm(source: str, target: str) -> list[Rule]:
    return [
        Rule((f"{source}/scale",), (f"{target}.weight",), same),
        Rule((f"{source}/bias",), (f"{target}.bias",), same),
    ]
