"""SigLIP for pretraining: Transformers' `SiglipModel`, whose forward computes the contrastive loss of a batch.

What departs from `SiglipModel`:
- the loss is that of `contrastive_loss.py`: over the batches of all processes, without a matrix of all logits;
- an image may have several true texts, and a text several images; keys say which belong together;
- `token_bottleneck` factorises the token embeddings of a large vocabulary, V x 96 times 96 x 768 in place of V x 768
  (SigLIP, section 4.4); `stock()` multiplies the factors and returns an ordinary `SiglipModel`.

Shapes: `N` images, `M` texts, `L` tokens of a sequence, `K` keys of an image, `D` width of the embeddings, `H W`
pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear, normalize
from transformers import SiglipModel
from transformers.models.siglip.modeling_siglip import SiglipOutput

from .contrastive_loss import (
    INITIAL_LOGIT_BIAS,
    INITIAL_TEMPERATURE,
    initialize_logits,
    sigmoid_loss,
    softmax_loss,
    widen,
)
from .initial_weights import draw_siglip

PRESETS = Path(__file__).parent / "presets" / "siglip.yaml"


def siglip_preset(name: str) -> dict[str, dict[str, Any]]:
    """`vision_config` and `text_config` of one of the shipped sizes (`modeling/presets/siglip.yaml`).

    Raises:
        ValueError: if there is no such size; the message lists those there are.
    """
    import yaml

    sizes = yaml.safe_load(PRESETS.read_text())
    if name not in sizes:
        raise ValueError(f"no preset {name!r}; there are {', '.join(sizes)}")
    size = sizes[name]
    return {
        "vision_config": {"image_size": 224, **size["vision_config"]},
        "text_config": {
            "max_position_embeddings": 64,
            "projection_size": size["vision_config"]["hidden_size"],
            **size["text_config"],
        },
    }


class BottleneckEmbedding(nn.Module):
    """A factorised embedding table: narrow rows times a matrix that widens them.

    Args:
        size: of the vocabulary.
        bottleneck: width of the narrow rows.
        width: of the embeddings.
    """

    def __init__(self, size: int, bottleneck: int, width: int):
        super().__init__()
        # the product has the variance of an ordinary table, 1 / width
        self.narrow = nn.Parameter(torch.randn(size, bottleneck) * bottleneck**-0.5)
        self.wide = nn.Parameter(torch.randn(width, bottleneck) * width**-0.5)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table, float[size, width]."""
        return linear(self.narrow, self.wide)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """int[...] to float[..., width]."""
        return linear(embedding(input_ids, self.narrow), self.wide)


class ContrastiveTowers:
    """What `SiglipForContrastiveLearning` and `Siglip2ForContrastiveLearning` share: loss, start and result."""

    # bfloat16 is too coarse for them: exp(t') would be off by 0.6 %, and small optimizer steps would be lost
    _keep_in_fp32_modules_strict = {"logit_scale", "logit_bias"}

    config: Any
    vision_model: Any
    text_model: Any
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter
    stock_class: Any

    def __init__(self, config: Any):
        super().__init__(config)  # pyright: ignore[reportCallIssue]
        self.kind = getattr(config, "contrastive_loss", "sigmoid")
        if self.kind not in ("sigmoid", "softmax"):
            raise ValueError(f"contrastive_loss is sigmoid or softmax, not {self.kind!r}")
        self.chunk_size = getattr(config, "loss_chunk_size", None)
        bottleneck, text = getattr(config, "token_bottleneck", None), self.text_model.config
        if bottleneck:
            table: Any = BottleneckEmbedding(text.vocab_size, bottleneck, text.hidden_size)
            self.text_model.embeddings.token_embedding = table

    @property
    def dtype(self) -> torch.dtype:
        """The type of the towers; Transformers would take that of the first parameter, the temperature."""
        return next(self.vision_model.parameters()).dtype

    @classmethod
    def from_towers(
        cls, config: Any, temperature: float = INITIAL_TEMPERATURE, bias: float = INITIAL_LOGIT_BIAS
    ) -> Any:
        """Make two new towers with t' = log(temperature) and b = bias; by default the paper's."""
        model: Any = cls(config)
        draw_siglip(model)
        initialize_logits(model.logit_scale, model.logit_bias, temperature, bias)
        return model

    def contrast(
        self,
        pooled: tuple[torch.Tensor, torch.Tensor],
        image_keys: torch.Tensor | None,
        text_keys: torch.Tensor | None,
    ) -> SiglipOutput:
        """The loss of pooled images float[N, D] and texts float[M, D], and both L2-normalised."""
        # in float32, since exp(t') would multiply the rounding of bfloat16
        images, texts = (normalize(widen(features), dim=-1) for features in pooled)  # [N, D], [M, D]
        if self.kind == "sigmoid":
            more = (self.logit_bias, image_keys, text_keys, self.chunk_size)
            loss = sigmoid_loss(images, texts, self.logit_scale, *more)
        else:
            loss = softmax_loss(images, texts, self.logit_scale, image_keys, text_keys, self.chunk_size)
        return SiglipOutput(loss=loss, image_embeds=images, text_embeds=texts)  # pyright: ignore[reportArgumentType]

    def stock(self) -> Any:
        """The same towers as an ordinary model of Transformers with a whole embedding table; all other weights are
        shared."""
        config: Any = type(self.config)(**{k: v for k, v in self.config.to_dict().items() if k not in OPTIONS})
        weights, name = self.state_dict(), "text_model.embeddings.token_embedding"  # pyright: ignore
        table: Any = self.text_model.embeddings.token_embedding
        if isinstance(table, BottleneckEmbedding):
            del weights[f"{name}.narrow"], weights[f"{name}.wide"]
            weights[f"{name}.weight"] = table.weight.detach()
        with torch.device("meta"):
            model = self.stock_class(config)
        # position ids are not among the weights
        parts: Any = (model.vision_model.embeddings, model.text_model.embeddings)
        for part in parts:
            if hasattr(part, "position_ids"):
                count = part.position_embedding.num_embeddings
                part.position_ids = torch.arange(count, device=table.weight.device)[None]
        model.load_state_dict(weights, assign=True)
        config.architectures = [self.stock_class.__name__]
        return model.eval()


class SiglipForContrastiveLearning(ContrastiveTowers, SiglipModel):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`SiglipModel` with the loss of its pretraining.

    Args:
        config: a `SiglipConfig`, which may have

            - `contrastive_loss`: `"sigmoid"` (the default), or `"softmax"` for CLIP's;
            - `loss_chunk_size`: images whose logits are computed at a time;
            - `token_bottleneck`: width of narrow token embeddings, none by default.
    """

    stock_class = SiglipModel

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        image_keys: torch.Tensor | None = None,
        text_keys: torch.Tensor | None = None,
    ) -> SiglipOutput:
        """Compute the contrastive loss of a batch.

        Args:
            pixel_values: float[N, 3, H, W] in [-1, 1].
            input_ids: int[M, L], padded to a common length; padding is attended to.
            image_keys, text_keys: int[N, K] and int[M], see [`sigmoid_loss`]; M = N without them.

        Returns:
            `loss` float[], `image_embeds` float[N, D] and `text_embeds` float[M, D], L2-normalised.
        """
        images = self.get_image_features(pixel_values=pixel_values)[1]
        return self.contrast((images, self.get_text_features(input_ids=input_ids)[1]), image_keys, text_keys)


OPTIONS = ("contrastive_loss", "loss_chunk_size", "token_bottleneck", "architectures")
