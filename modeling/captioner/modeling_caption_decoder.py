"""The text decoder of captioners (CapPa, arXiv 2306.07915), which any image encoder can be trained with.

It reads image tokens by cross-attention and is trained in two modes, drawn for each example:

- causal: position i sees the tokens before it, and predicts token i;
- parallel: inputs are masked (all of them in CapPa), and every position sees all others, padding included. It predicts
  the whole text at once, from the image alone where all inputs are masked.

Shapes: `B` images, `P` tokens of an image, `N` texts of an image (1 in training), `R = B * N` texts, `L` tokens of a
text, padding included, `E` width of the image tokens, `D` of the decoder, `V` vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.modeling.initial_weights import lecun_normal
from openpali.modeling.token_loss import token_cross_entropy

# the smallest sum of weights that an example's loss is divided by, as in big_vision
LEAST_WEIGHT = 2e-38
# text positions that are scored at a time
SCORED_POSITIONS = 1 << 16

KeysValues = tuple[torch.Tensor, torch.Tensor]


class CaptionAttention(nn.Module):
    """Attention without biases; keys and values may have another width than queries."""

    def __init__(self, config: CaptionDecoderConfig, source_width: int):
        super().__init__()
        width = config.hidden_size
        self.config, self.heads = config, config.num_attention_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(source_width, width, bias=False)
        self.v_proj = nn.Linear(source_width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def keys_values(self, source: torch.Tensor) -> KeysValues:
        """float[B, S, source_width] to keys and values, float[B, heads, S, D / heads] each."""
        return self.split(self.k_proj(source)), self.split(self.v_proj(source))

    def forward(
        self, states: torch.Tensor, keys_values: KeysValues, mask: torch.Tensor | None = None, causal: bool = False
    ) -> torch.Tensor:
        """float[B, T, D] from float[B, T, D]; `mask` bool[B, 1, T, S] is True where a position sees another."""
        rate = self.config.dropout if self.training else 0.0
        queries = self.split(self.q_proj(states))
        seen = scaled_dot_product_attention(queries, *keys_values, mask, dropout_p=rate, is_causal=causal)
        return self.out_proj(seen.transpose(1, 2).flatten(2))

    def split(self, states: torch.Tensor) -> torch.Tensor:
        """float[B, T, D] to float[B, heads, T, D / heads]."""
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CaptionMlp(nn.Module):
    """Two layers with a tanh-GELU between them."""

    def __init__(self, config: CaptionDecoderConfig):
        super().__init__()
        self.config = config
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """float[R, L, D] from float[R, L, D]."""
        hidden = gelu(self.fc1(states), approximate="tanh")
        return self.fc2(dropout(hidden, self.config.dropout, self.training))


class CaptionBlock(GradientCheckpointingLayer):
    """A layer of the decoder: self-attention, cross-attention, MLP, each behind a norm and added to its input."""

    def __init__(self, config: CaptionDecoderConfig):
        super().__init__()
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.config = config
        self.layer_norm1 = nn.LayerNorm(width, epsilon, bias=config.use_bias)
        self.self_attn = CaptionAttention(config, width)
        self.layer_norm2 = nn.LayerNorm(width, epsilon, bias=config.use_bias)
        self.cross_attn = CaptionAttention(config, encoder_width(config))
        self.layer_norm3 = nn.LayerNorm(width, epsilon, bias=config.use_bias)
        self.mlp = CaptionMlp(config)

    def forward(
        self, states: torch.Tensor, image_tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float[R, L, D] from float[R, L, D] and float[B, P, E]; without a mask self-attention is causal."""
        normed, rate = self.layer_norm1(states), self.config.dropout
        own = self.self_attn(normed, self.self_attn.keys_values(normed), mask, causal=mask is None)
        states = states + dropout(own, rate, self.training)
        # all texts of an image are one sequence of queries, since none of them is masked here
        queries = self.layer_norm2(states).reshape(len(image_tokens), -1, states.shape[2])  # [B, N * L, D]
        seen = self.cross_attn(queries, self.cross_attn.keys_values(image_tokens)).reshape(states.shape)
        states = states + dropout(seen, rate, self.training)
        return states + self.mlp(self.layer_norm3(states))


class CaptionDecoder(PreTrainedModel):
    """Text decoder on image tokens, with its loss.

    Any image encoder can be trained with it, also a SigLIP by both losses: build it with a [`CaptionDecoderConfig`]
    whose `encoder_hidden_size` is the encoder's width, and add `decoder.loss(tokens, **batch)` to the encoder's own
    loss. The tokens are the un-pooled ones behind the encoder's last norm, SigLIP's `last_hidden_state`; the batch is
    that of `openpali.recipes.captioning.batches.CaptionInputs`.
    """

    config: CaptionDecoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = CaptionDecoderConfig
    base_model_prefix = "decoder"
    main_input_name = "decoder_input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CaptionBlock"]
    _supports_sdpa = True

    def __init__(self, config: CaptionDecoderConfig):
        super().__init__(config)
        width = config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size + int(config.mask_token), width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.layers = nn.ModuleList(CaptionBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.logits = nn.Linear(width, config.vocab_size)
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, since Transformers does not initialise modules without own parameters in custom code."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in big_vision; the output layer starts at zero, so the first loss is the logarithm of the vocabulary."""
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            lecun_normal(module.weight)
        elif isinstance(module, CaptionMlp):
            for layer in (module.fc1, module.fc2):
                init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    init.normal_(layer.bias, std=1e-6)
        elif isinstance(module, CaptionDecoder):
            init.normal_(module.tokens.weight, std=1.0)
            init.normal_(module.positions.weight, std=module.config.hidden_size**-0.5)
            init.zeros_(module.logits.weight)
        if isinstance(module, nn.LayerNorm | nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The token table, with the row of the mask."""
        return self.tokens

    def forward(
        self, image_tokens: torch.Tensor, decoder_input_ids: torch.Tensor, parallel: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode texts.

        Args:
            image_tokens: float[B, P, E].
            decoder_input_ids: int[R, L]; with R = N * B texts the N texts of an image follow each other.
            parallel: bool[R], True for texts whose positions see each other; all are causal when left out.

        Returns:
            float[R, L, D], what the output layer takes.
        """
        length = decoder_input_ids.shape[1]
        states = self.tokens(decoder_input_ids) + self.positions.weight[:length]
        mask = None
        if parallel is not None:
            causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
            mask = causal | parallel[:, None, None, None]  # [R, 1, L, L]
        for layer in self.layers:
            states = layer(states, image_tokens, mask)
        return self.norm(states)

    def example_losses(
        self,
        image_tokens: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        labels: torch.Tensor,
        parallel: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The weighted mean loss of each text's tokens.

        Args:
            image_tokens: float[B, P, E].
            decoder_input_ids: int[R, L], see `forward`.
            labels: int[R, L], not shifted; padding is not predicted, whatever its weight.
            parallel: bool[R].
            label_weights: float[R, L], 1 when left out.

        Returns:
            float[R]; 0 for a text without a label.
        """
        hidden = self(image_tokens, decoder_input_ids, parallel)
        weights = (labels != self.config.pad_token_id).float()
        if label_weights is not None:
            weights = weights * label_weights.float()
        kept = weights != 0
        losses = self.token_losses(hidden[kept], labels[kept], self.config.label_smoothing)
        sums = losses.new_zeros(len(labels)).index_add(0, kept.nonzero()[:, 0], losses * weights[kept])
        return sums / weights.sum(1).clamp(min=LEAST_WEIGHT)

    def loss(self, image_tokens: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor:
        """The mean of `example_losses`, float[]."""
        return self.example_losses(image_tokens, **batch).mean()

    def token_losses(self, hidden: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy float[T] of float[T, D] and int[T]."""
        return token_cross_entropy(hidden, self.logits, labels, smoothing)

    def shifted(self, labels: torch.Tensor) -> torch.Tensor:
        """Inputs of causal texts: labels one position later, behind the start token. int[R, L]."""
        start: Any = self.config.pad_token_id
        return torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)

    def score(
        self, image_tokens: torch.Tensor, labels: torch.Tensor, label_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sums of log p of texts' tokens, in causal mode; a longer text has more of them.

        Args:
            image_tokens: float[B, P, E].
            labels: int[N, L], texts that are scored on every image; or int[B, N, L], each image's own.
            label_weights: of the same shape, 0 for tokens that are given and not scored.

        Returns:
            float[B, N].
        """
        images, pad = len(image_tokens), self.config.pad_token_id
        weights = (labels != pad).float() if label_weights is None else (labels != pad) * label_weights.float()
        # padding on the right changes nothing before it
        length = int((labels != pad).flatten(0, -2).any(0).nonzero().max()) + 1 if (labels != pad).any() else 1
        step = max(1, SCORED_POSITIONS // (images * length))
        parts = [
            self._score(image_tokens, some.expand(images, -1, -1), each.expand(images, -1, -1))
            for some, each in zip(
                labels[..., :length].split(step, dim=-2), weights[..., :length].split(step, dim=-2), strict=True
            )
        ]
        return torch.cat(parts, dim=1)

    def _score(self, image_tokens: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """`score` of int[B, N, L] and float[B, N, L]."""
        flat, weights = labels.flatten(0, 1), weights.flatten(0, 1)
        hidden, kept = self(image_tokens, self.shifted(flat)), weights != 0
        losses = self.token_losses(hidden[kept], flat[kept]) * weights[kept]
        sums = losses.new_zeros(len(flat)).index_add(0, kept.nonzero()[:, 0], losses)
        return -sums.unflatten(0, labels.shape[:2])


def encoder_width(config: CaptionDecoderConfig) -> int:
    """Width of the image tokens."""
    return int(config.encoder_hidden_size or config.hidden_size)
