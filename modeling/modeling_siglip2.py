"""SigLIP 2 with NaFlex for pretraining: `Siglip2Model`, which takes images of any aspect ratio, cut into patches.

The loss is that of `modeling_siglip.py`, and so are the options of the configuration. Each image has its own position
embeddings, resized to its grid (`image_patches.py`), and no token attends to padding, as in the stock class.

Shapes: `N` images, `S` tokens of their sequences, `M` texts, `L` tokens of a text, `K` keys of an image, `D` width.
"""

from typing import Any

import torch
from transformers import Siglip2Config, Siglip2Model, SiglipModel
from transformers.models.siglip.modeling_siglip import SiglipOutput

from .image_patches import NaFlexVisionEmbeddings
from .modeling_siglip import ContrastiveTowers


class Siglip2ForContrastiveLearning(ContrastiveTowers, Siglip2Model):  # pyright: ignore[reportIncompatibleMethodOverride]
    """`Siglip2Model` with the loss of its pretraining; see `SiglipForContrastiveLearning`.

    Args:
        config: a `Siglip2Config`, which may have `contrastive_loss`, `loss_chunk_size` and `token_bottleneck`.
    """

    stock_class = Siglip2Model

    def __init__(self, config: Siglip2Config):
        super().__init__(config)
        self.vision_model.embeddings.__class__ = NaFlexVisionEmbeddings

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor,
        spatial_shapes: torch.Tensor,
        input_ids: torch.Tensor,
        image_keys: torch.Tensor | None = None,
        text_keys: torch.Tensor | None = None,
    ) -> SiglipOutput:
        """Compute the contrastive loss of a batch.

        Args:
            pixel_values: float[N, S, 3p²], sequences of patches.
            pixel_attention_mask: int[N, S], 0 on padding.
            spatial_shapes: int[N, 2], rows and columns of patches.
            input_ids: int[M, L], padded to a common length; padding is attended to.
            image_keys, text_keys: int[N, K] and int[M], see [`sigmoid_loss`]; M = N without them.

        Returns:
            `loss` float[], `image_embeds` float[N, D] and `text_embeds` float[M, D], L2-normalised.
        """
        sequences: Any = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
        images = self.get_image_features(pixel_values=pixel_values, **sequences)[1]
        return self.contrast((images, self.get_text_features(input_ids=input_ids)[1]), image_keys, text_keys)


def naflex_config(vision: dict[str, Any], text: dict[str, Any]) -> Siglip2Config:
    """The configuration of towers with NaFlex, from that of square ones: positions for a square image of its size."""
    sizes = {key: value for key, value in vision.items() if key not in ("image_size", "model_type", "num_patches")}
    side = vision["image_size"] // vision["patch_size"]
    text = {key: value for key, value in text.items() if key != "model_type"}
    return Siglip2Config(vision_config=sizes | {"num_patches": side * side}, text_config=text)


@torch.no_grad()
def to_naflex(square: SiglipModel, kind: type[Siglip2Model] = Siglip2Model) -> Any:
    """The towers of a square SigLIP as NaFlex ones, which compute the same for a square image of its size.

    Args:
        square: with two towers.
        kind: class of the result, which keeps the options of the configuration.
    """
    old: Any = square.config
    config: Any = naflex_config(old.vision_config.to_dict(), old.text_config.to_dict())
    for name in ("contrastive_loss", "loss_chunk_size", "token_bottleneck"):
        if hasattr(old, name):
            setattr(config, name, getattr(old, name))
    model: Any = kind(config)
    weights, kernel = square.state_dict(), "vision_model.embeddings.patch_embedding.weight"
    # a patch is written by row, column and channel
    weights[kernel] = weights[kernel].permute(0, 2, 3, 1).flatten(1)
    model.load_state_dict(weights)
    return model.to(square.dtype).eval()
