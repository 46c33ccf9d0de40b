"""PaliGemma with images of any aspect ratio: SigLIP 2's NaFlex as its image encoder.

An image has as many tokens as it has patches. They are projected without padding and replace the image placeholders in
their order; everything behind that is PaliGemma's.

Shapes: `B` examples (packed: rows), `N` images, `P` patches of the longest one, `T` patches of all images together,
`L` tokens of a sequence, `D` width of the text model (`D_vision`: of the image encoder).
"""

from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.paligemma import modeling_paligemma as stock

from .configuration_paligemma import PaliGemmaNaflexConfig
from .image_patches import encode_patches, without_padding
from .modeling_paligemma import PaliGemmaForConditionalGeneration


class PaliGemmaNaflexForConditionalGeneration(PaliGemmaForConditionalGeneration):
    """PaliGemma whose image encoder is `Siglip2VisionModel`."""

    config: PaliGemmaNaflexConfig
    config_class = PaliGemmaNaflexConfig

    def save_pretrained(self, save_directory: Any, *args: Any, save_original_format: bool = False, **kwargs: Any):
        """Save under the parameters' names in memory; no other program reads older ones of such a model."""
        return super().save_pretrained(save_directory, *args, save_original_format=False, **kwargs)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode and project images.

        Args:
            pixel_values: float[N, P, 3 * patch_size**2], patches with padding behind them.
            spatial_shapes: int[N, 2], rows and columns of the patches of each image.
            pixel_attention_mask: not used; `spatial_shapes` say where padding is.
            **kwargs: for the image encoder.

        Returns:
            The image encoder's output, float[N, P, D_vision], and as `pooler_output` the tokens of all images without
            padding, float[T, D].
        """
        outputs: Any = encode_patches(self.model.vision_tower, pixel_values, spatial_shapes, **kwargs)
        flat = without_padding(outputs.last_hidden_state, spatial_shapes)  # [T, D_vision]
        outputs.pooler_output = self.model.multi_modal_projector(flat)
        return outputs

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_features: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> stock.PaliGemmaCausalLMOutputWithPast:
        """Do as `PaliGemmaForConditionalGeneration` does, with one placeholder for each patch of each image.

        Args as there, but for images:
            pixel_values, spatial_shapes, pixel_attention_mask: see `get_image_features`.
            image_features: float[N, P, D_vision], the image encoder's output in place of `pixel_values`, with
                `spatial_shapes`.

        Raises:
            ValueError: images or features without `spatial_shapes`, images twice, and as there.
        """
        if pixel_values is not None and image_features is not None:
            raise ValueError("give pixel_values or image_features, not both")
        known = cache if cache is not None else past_key_values
        # generation passes images in every step; their placeholders are in the first step only
        first = not (known and known.get_seq_length())
        if pixel_values is not None and first:
            image_features = encode_patches(self.model.vision_tower, pixel_values, spatial_shapes).last_hidden_state
        if image_features is not None and first:
            image_features = without_padding(image_features, spatial_shapes)  # [T, D_vision]
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            image_features=image_features if first else None,
            past_key_values=past_key_values,
            **kwargs,
        )


__all__ = ["PaliGemmaNaflexForConditionalGeneration"]
