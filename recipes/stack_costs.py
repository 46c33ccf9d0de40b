"""Formulas for the costs of stacks of transformer layers; `stage_costs` says what they count."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stack:
    """Equal layers over the tokens of one example, and the products before or behind them.

    Attributes:
        name: of the component that they belong to.
        layers: how many.
        tokens: that go through each layer.
        width: of the residual.
        queries, keys: width of all heads together.
        mlp: width of the hidden layer.
        token_bytes: activations that a layer keeps of each token.
        gated: whether the MLP multiplies two hidden layers.
        memory, memory_width: tokens of another stack that each layer attends to as well, and their width.
        memory_bytes: activations that a layer keeps of each of those.
        pair_bytes: what a layer keeps of each pair of tokens: a mask.
        shared_bytes: kept once for all layers.
        products: weights of products before or behind the layers, times the tokens that they are used on.
        logits: the same of the vocabulary, which is computed twice.
        below: components that feed this one.
    """

    name: str
    layers: int
    tokens: int
    width: int
    queries: int
    keys: int
    mlp: int
    token_bytes: float = 0.0
    gated: bool = False
    memory: int = 0
    memory_width: int = 0
    memory_bytes: float = 0.0
    pair_bytes: float = 0.0
    shared_bytes: float = 0.0
    products: float = 0.0
    logits: float = 0.0
    below: tuple[str, ...] = ()

    def layer_weights(self) -> int:
        """Of the products of one layer."""
        attention = self.width * (2 * self.queries + 2 * self.keys)
        crossing = 2 * self.width * self.queries + 2 * self.memory_width * self.keys if self.memory else 0
        return attention + crossing + (3 if self.gated else 2) * self.width * self.mlp

    def on_the_way(self, learns: Collection[str]) -> bool:
        """Whether gradients go through: it or something below trains."""
        return any(name in learns for name in (self.name, *self.below))

    def flops(self, trained: bool, on_the_way: bool, checkpointing: bool) -> float:
        """Of one example, forward and backward.

        Args:
            trained: whether its weights have gradients.
            on_the_way: whether gradients go through it.
            checkpointing: whether its layers are computed a second time.
        """
        linear = 2.0 * self.tokens * self.layer_weights()
        if self.memory:
            # keys and values of the memory are made of the memory's tokens
            linear += 2.0 * (self.memory - self.tokens) * 2 * self.memory_width * self.keys
        scores = 4.0 * self.tokens * (self.tokens + self.memory) * self.queries
        back = (1 + trained) * on_the_way
        again = 1 if checkpointing and on_the_way else 0
        layers = self.layers * (linear * (1 + back + again) + scores * (1 + 2 * on_the_way + again))
        return layers + 2 * self.products * (1 + back) + 2 * self.logits * (2 + back)

    def activation_bytes(self, on_the_way: bool, checkpointing: bool) -> float:
        """Kept for the backward pass of one example; nothing where no gradient goes through."""
        if not on_the_way:
            return 0.0
        layer = self.tokens * (self.token_bytes + self.tokens * self.pair_bytes) + self.memory * self.memory_bytes
        if checkpointing:
            return self.layers * self.tokens * 4.0 * self.width + layer + self.shared_bytes
        return self.layers * layer + self.shared_bytes


def stacks_of(config: Any, text_tokens: int, target_tokens: int) -> list[Stack]:
    """Image encoder, projector and text model of PaLI-3 or PaliGemma.

    Args:
        config: of the model.
        text_tokens: of the prompt.
        target_tokens: of the target.

    Raises:
        ValueError: if the text model is of a kind that has no formula here.
    """
    vision, text = config.vision_config, config.text_config
    images = (vision.image_size // vision.patch_size) ** 2
    width = vision.hidden_size
    tower = Stack(
        name="vision_tower",
        layers=vision.num_hidden_layers,
        tokens=images,
        width=width,
        queries=width,
        keys=width,
        mlp=vision.intermediate_size,
        token_bytes=24 * width + 4 * vision.intermediate_size,
        products=images * 3 * vision.patch_size**2 * width,
    )
    if config.model_type == "paligemma":
        return [tower, *decoder_only(text, images, width, text_tokens, target_tokens)]
    if text.model_type not in ("t5", "umt5"):
        raise ValueError(f"there are no formulas for the text model {text.model_type!r}: t5, umt5, gemma, gemma2")
    return [tower, *encoder_decoder(text, images, width, text_tokens, target_tokens)]


def decoder_only(text: Any, images: int, features: int, prompt: int, target: int) -> list[Stack]:
    """PaliGemma's projector and decoder."""
    width = text.hidden_size
    below = ("vision_tower", "multi_modal_projector")
    projector = Stack(below[1], 0, images, width, 0, 0, 0, products=images * features * width, below=below[:1])
    queries = text.num_attention_heads * text.head_dim
    # Gemma 2 has two more norms a layer
    norms = 42 if text.model_type == "gemma2" else 26
    decoder = Stack(
        name="language_model",
        layers=text.num_hidden_layers,
        tokens=images + prompt + target,
        width=width,
        token_bytes=norms * width + 8 * queries + 8 * text.intermediate_size,
        pair_bytes=2,
        queries=queries,
        keys=text.num_key_value_heads * text.head_dim,
        mlp=text.intermediate_size,
        gated=True,
        logits=target * width * text.vocab_size,
        below=below,
    )
    return [projector, decoder]


def encoder_decoder(text: Any, images: int, features: int, prompt: int, target: int) -> list[Stack]:
    """PaLI-3's projector, text encoder and decoder."""
    width, heads = text.d_model, text.num_heads * text.d_kv
    below = ("vision_tower", "projector", "text_encoder")
    projector = Stack(below[1], 0, images, width, 0, 0, 0, products=images * features * width, below=below[:1])
    shape: dict[str, Any] = {"width": width, "queries": heads, "keys": heads, "mlp": text.d_ff}
    shape["gated"] = text.is_gated_act
    # the activation function of T5 v1.1 is written out in Transformers: five tensors beside its input
    hidden = (14 if text.is_gated_act else 12) * text.d_ff
    encoder = Stack(
        name=below[2],
        layers=text.num_layers,
        tokens=images + prompt,
        token_bytes=26 * width + 8 * heads + hidden,
        shared_bytes=bias_bytes(text, images + prompt),
        **shape,
        below=below[:2],
    )
    decoder = Stack(
        name="decoder",
        layers=text.num_decoder_layers,
        tokens=target,
        token_bytes=36 * width + 12 * heads + hidden,
        shared_bytes=bias_bytes(text, target),
        **shape,
        memory=images + prompt,
        memory_width=width,
        memory_bytes=4 * width + 4 * heads,
        logits=target * width * text.vocab_size,
        below=below,
    )
    return [projector, encoder, decoder]


def bias_bytes(text: Any, tokens: int) -> float:
    """T5's relative positions: a float32 number and its gradient for each head and pair of tokens."""
    return 8.0 * text.num_heads * tokens**2
