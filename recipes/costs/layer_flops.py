"""FLOPs of stacks of transformer layers, by formula; `stage_costs` documents what they count."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from openpali.modeling.configuration_paligemma import PALIGEMMA_TYPES
from openpali.modeling.image_patches import most_image_tokens
from openpali.recipes.costs.forward_passes import Lengths


@dataclass(frozen=True)
class Stack:
    """Equal layers over the tokens of one example, and matrix products before or after them.

    Attributes:
        name: of their component.
        layers: number of layers.
        tokens: that go through each layer.
        width: of the residual.
        queries, keys: width of all heads together.
        mlp: width of the hidden layer.
        gated: whether the MLP multiplies two hidden layers.
        memory, memory_width: tokens of another stack that each layer cross-attends to, and their width.
        products: weights of products before or after the layers, times their tokens.
        logits: the same for the LM head, which is computed twice.
        below: components whose outputs this one reads.
        rows: sequences that share an example's `tokens`, none of which attends to another.
    """

    name: str
    layers: int
    tokens: int
    width: int
    queries: int
    keys: int
    mlp: int
    gated: bool = False
    memory: int = 0
    memory_width: int = 0
    products: float = 0.0
    logits: float = 0.0
    below: tuple[str, ...] = ()
    rows: int = 1

    def layer_weights(self) -> int:
        """Number of weights of one layer's products."""
        attention = self.width * (2 * self.queries + 2 * self.keys)
        crossing = 2 * self.width * self.queries + 2 * self.memory_width * self.keys if self.memory else 0
        return attention + crossing + (3 if self.gated else 2) * self.width * self.mlp

    def has_gradients(self, trainable: Collection[str]) -> bool:
        """Whether gradients pass through: it or a component below trains."""
        return any(name in trainable for name in (self.name, *self.below))

    def flops(self, trained: bool, has_gradients: bool, checkpointing: bool) -> float:
        """Of one example, forward and backward.

        Args:
            trained: whether its weights have gradients.
            has_gradients: whether gradients pass through it.
            checkpointing: whether its layers are computed twice.
        """
        linear = 2.0 * self.tokens * self.layer_weights()
        if self.memory:
            # keys and values of cross-attention come from the memory's tokens
            linear += 2.0 * (self.memory - self.tokens) * 2 * self.memory_width * self.keys
        scores = 4.0 * self.tokens * (self.tokens / self.rows + self.memory) * self.queries
        back = (1 + trained) * has_gradients
        again = 1 if checkpointing and has_gradients else 0
        layers = self.layers * (linear * (1 + back + again) + scores * (1 + 2 * has_gradients + again))
        return layers + 2 * self.products * (1 + back) + 2 * self.logits * (2 + back)


def stacks_of(kind: str, config: Any, lengths: Lengths) -> list[Stack]:
    """The stacks of a model.

    Args:
        kind: a key of `forward_passes.STEPS`.
        config: of the model.
        lengths: of an example.

    Raises:
        ValueError: there is no formula for the kind of text model.
    """
    if kind == "denoise":
        return encoder_decoder(config, 0, lengths)
    vision = config.vision_config
    if kind in ("pali3", *PALIGEMMA_TYPES):
        tower = image_stack(vision, "vision_tower")
        make = text_stacks if kind == "pali3" else decoder_only
        return [tower, *make(config.text_config, tower.tokens, vision.hidden_size, lengths)]
    tower = image_stack(vision, "vision_model")
    if kind != "contrastive":
        return [tower]
    text = config.text_config
    tokens = lengths.prompt * lengths.texts
    width, mlp = text.hidden_size, text.intermediate_size
    return [tower, Stack("text_model", text.num_hidden_layers, tokens, width, width, width, mlp, rows=lengths.texts)]


def image_stack(vision: Any, name: str) -> Stack:
    """SigLIP's image encoder, without the pooling head: one query for all tokens."""
    tokens, width = most_image_tokens(vision), vision.hidden_size
    products = tokens * 3 * vision.patch_size**2 * width
    mlp = vision.intermediate_size
    return Stack(name, vision.num_hidden_layers, tokens, width, width, width, mlp, products=products)


def decoder_only(text: Any, images: int, features: int, lengths: Lengths) -> list[Stack]:
    """PaliGemma's projector and decoder."""
    width, target = text.hidden_size, lengths.target
    below = ("vision_tower", "multi_modal_projector")
    projector = Stack(below[1], 0, images, width, 0, 0, 0, products=images * features * width, below=below[:1])
    shape = gemma_shape(text)
    tokens = images + lengths.prompt + target
    logits = target * width * text.vocab_size
    return [projector, Stack("language_model", tokens=tokens, **shape, logits=logits, below=below)]


def gemma_shape(text: Any) -> dict[str, Any]:
    """Layers and widths of a Gemma-like stack."""
    return {
        "layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "queries": text.num_attention_heads * text.head_dim,
        "keys": text.num_key_value_heads * text.head_dim,
        "mlp": text.intermediate_size,
        "gated": True,
    }


def text_stacks(text: Any, images: int, features: int, lengths: Lengths) -> list[Stack]:
    """PaLI-3's projector, text encoder and decoder."""
    width = text.encoder.hidden_size if text.model_type == "t5gemma" else text.hidden_size
    projector = Stack(
        "projector", 0, images, width, 0, 0, 0, products=images * features * width, below=("vision_tower",)
    )
    stacks = encoder_decoder(text, images, lengths, ("vision_tower", "projector"))
    return [projector, *stacks]


def encoder_decoder(text: Any, images: int, lengths: Lengths, below: tuple[str, ...] = ()) -> list[Stack]:
    """An encoder of images and prompt, and a decoder of the target that cross-attends to it."""
    name = "text_encoder" if below else "encoder"
    if text.model_type == "t5gemma":
        shapes = [gemma_shape(text.encoder), gemma_shape(text.decoder)]
        vocabulary = text.decoder.vocab_size
    elif text.model_type in ("t5", "umt5"):
        heads = text.num_heads * text.d_kv
        shape: dict[str, Any] = {
            "width": text.d_model,
            "queries": heads,
            "keys": heads,
            "mlp": text.d_ff,
            "gated": text.is_gated_act,
        }
        shapes = [shape | {"layers": layers} for layers in (text.num_layers, text.num_decoder_layers)]
        vocabulary = text.vocab_size
    else:
        raise ValueError(f"there are no formulas for the text model {text.model_type!r}: t5, umt5, t5gemma")
    tokens, target = images + lengths.prompt, lengths.target
    encoder = Stack(name, tokens=tokens, **shapes[0], below=below)
    memory: dict[str, Any] = {"memory": tokens, "memory_width": encoder.width}
    logits = target * shapes[1]["width"] * vocabulary
    return [encoder, Stack("decoder", tokens=target, **shapes[1], **memory, logits=logits, below=(*below, name))]
