"""Captioners: a SigLIP image encoder that is trained to caption (CapPa, arXiv 2306.07915; LocCa, arXiv 2403.19596).

Shapes: `B` images, `P` tokens of an image, `N` texts, `L` tokens of a text, `E` width of the encoder, `H W` pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, SiglipVisionModel
from transformers.utils import ModelOutput

from openpali.modeling.captioner.configuration_captioner import CaptionerConfig
from openpali.modeling.captioner.modeling_caption_decoder import CaptionDecoder
from openpali.modeling.initial_weights import lecun_normal


@dataclass
class CaptionerOutput(ModelOutput):
    """Output of `Captioner` in training.

    Args:
        loss: float[], the mean over examples of the weighted mean over their tokens.
        example_losses: float[B], without gradient.
    """

    loss: torch.Tensor | None = None
    example_losses: torch.Tensor | None = None


class Captioner(PreTrainedModel):
    """An image encoder, and a decoder that writes texts about its images.

    ```python
    >>> captioner = Captioner.from_pretrained(folder)
    >>> captioner.score(pixel_values, labels)  # log p of every text on every image
    >>> captioner.encoder().save_pretrained("encoder")  # a stock SiglipVisionModel
    ```
    """

    config: CaptionerConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = CaptionerConfig
    base_model_prefix = "captioner"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["SiglipEncoderLayer", "CaptionBlock"]
    _supports_sdpa = True

    def __init__(self, config: CaptionerConfig):
        super().__init__(config)
        self.vision_model = SiglipVisionModel(config.vision_config)
        self.decoder = CaptionDecoder(config.decoder_config)
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, since Transformers does not initialise modules without own parameters in custom code."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Encoder and decoder initialise themselves; only the patches' weights are too large in Transformers."""
        if isinstance(module, Captioner):
            lecun_normal(module.vision_model.embeddings.patch_embedding.weight)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The decoder's token table."""
        return self.decoder.tokens

    def image_tokens(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """float[B, P, E], behind the last norm, of float[B, 3, H, W] in [-1, 1]; their mean represents the image."""
        return self.vision_model(pixel_values=pixel_values).last_hidden_state

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor,
        decoder_input_ids: torch.Tensor | None = None,
        parallel: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
    ) -> CaptionerOutput:
        """Compute the loss of a batch.

        Args:
            pixel_values: float[B, 3, H, W] in [-1, 1].
            labels: int[B, L], padded with `pad_token_id`, not shifted.
            decoder_input_ids: int[B, L]; the shifted labels when left out.
            parallel: bool[B], True for texts that are predicted in parallel.
            label_weights: float[B, L], 1 when left out.
        """
        if decoder_input_ids is None:
            decoder_input_ids = self.decoder.shifted(labels)
        tokens = self.image_tokens(pixel_values)
        losses = self.decoder.example_losses(tokens, decoder_input_ids, labels, parallel, label_weights)
        return CaptionerOutput(loss=losses.mean(), example_losses=losses.detach())  # pyright: ignore[reportArgumentType]

    def score(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, label_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float[B, N], sums of log p of texts, see `CaptionDecoder.score`; each image is encoded once."""
        return self.decoder.score(self.image_tokens(pixel_values), labels, label_weights)

    @torch.no_grad()
    def generate_ids(self, pixel_values: torch.Tensor, prompt_ids: torch.Tensor | None = None) -> torch.Tensor:
        """The most probable token after the other, until all texts have ended.

        Args:
            pixel_values: float[B, 3, H, W].
            prompt_ids: int[B, L0], given beginnings of one length.

        Returns:
            int[B, L], the new tokens, padded behind the end.
        """
        tokens, config = self.image_tokens(pixel_values), self.config.decoder_config
        start: Any = torch.full((len(tokens), 1), config.pad_token_id, device=tokens.device)
        ids = start if prompt_ids is None else torch.cat([start, prompt_ids], dim=1)
        given, ended = ids.shape[1], torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        while ids.shape[1] <= config.max_position_embeddings and not ended.all():
            last = self.decoder.logits(self.decoder(tokens, ids)[:, -1])
            drawn = last.argmax(-1).masked_fill(ended, config.pad_token_id)
            ids, ended = torch.cat([ids, drawn[:, None]], dim=1), ended | (drawn == config.eos_token_id)
        return ids[:, given:]

    def encoder(self) -> SiglipVisionModel:
        """The image encoder alone; it shares its weights with this model."""
        return self.vision_model


__all__ = ["Captioner"]
