"""The encoder of PaLI-3 (image encoder, projector and text encoder), and the base class of all its models.

Shapes: `B` examples, `N` images (behind `B`: of an example), `P` tokens of an image (`T`: of all images together), `L`
tokens of a sequence, `D` width of the text model (`D_vision`: of the image encoder), `H W` pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_pali3 import Pali3Config
from .image_patches import encode_patches, is_naflex, tower_class, without_padding
from .initial_weights import lecun_normal
from .transformers_versions import CACHE_NAMES


@dataclass
class Pali3EncoderOutput(BaseModelOutput):
    """The text encoder's output and the projected image tokens, float[N, P, D], or float[T, D] of any aspect ratio."""

    image_hidden_states: torch.Tensor | None = None


class Pali3Projector(nn.Module):
    """Project image features to the text model's width: one linear layer, or an MLP for the comparison."""

    def __init__(self, config: Pali3Config):
        super().__init__()
        vision_width, text_width = config.vision_config.hidden_size, text_hidden_size(config)
        self.hidden = nn.Linear(vision_width, text_width) if config.projector == "mlp" else None
        self.output = nn.Linear(text_width if self.hidden else vision_width, text_width)
        self.output_std = self.output.in_features**-0.5 if config.projector_init == "normal" else 0.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[N, P, D_vision] -> float[N, P, D]."""
        if self.hidden is not None:
            features = nn.functional.gelu(self.hidden(features), approximate="tanh")  # [N, P, D]
        return self.output(features)


def sine_positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Fixed 2D position embeddings: sines and cosines of the centre of each cell of a grid.

    Frequencies rise from half a period over the grid to half a period over a cell.

    Returns:
        float[rows * columns, width], row by row, root mean square 1: one half for the vertical position, the other for
        the horizontal one.

    Raises:
        ValueError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"image_positions='sine' needs a width of the text model that 4 divides, not {width}")
    halves = []
    for cells in (rows, columns):
        rates = math.pi * 2.0 ** torch.linspace(-1, math.log2(cells), width // 4)  # [width / 4]
        angles = (torch.arange(cells) + 0.5).unsqueeze(1) / cells * rates  # [cells, width / 4]
        halves.append(math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1))
    vertical = halves[0].unsqueeze(1).expand(-1, columns, -1)  # [rows, columns, width / 2]
    horizontal = halves[1].unsqueeze(0).expand(rows, -1, -1)  # [rows, columns, width / 2]
    return torch.cat([vertical, horizontal], dim=-1).flatten(0, 1)


def text_hidden_size(config: Pali3Config) -> int:
    """Width of the text encoder; T5Gemma's encoder and decoder may differ."""
    text_config = config.text_config
    return text_config.encoder.hidden_size if text_config.model_type == "t5gemma" else text_config.hidden_size


class Pali3PreTrainedModel(PreTrainedModel):
    """Base class: weight initialisation and supported features."""

    config: Pali3Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = list(CACHE_NAMES)
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False
    _supports_attention_backend = False

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """T5-like models share one embedding table even where the LM head is not tied to it."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels)
        return dict(self._tied_weights_keys or {})

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, since Transformers does not initialise modules without own parameters (the projector, T5's layers) in
        custom code. Here all initialisation goes through `initialization`.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Pali3Projector):
            init.normal_(module.output.weight, std=module.output_std)
            init.zeros_(module.output.bias)
            if module.hidden is not None:
                lecun_normal(module.hidden.weight)
                init.zeros_(module.hidden.bias)
        elif isinstance(module, Pali3PreTrainedModel):
            module.init_own_weights()

    def init_own_weights(self) -> None:
        """Initialise the parameters of this module that no submodule initialises."""


class Pali3Encoder(Pali3PreTrainedModel):
    """Image encoder, projector and text encoder, which run once per generation."""

    def __init__(self, config: Pali3Config, text_encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.vision_tower = tower_class(config.vision_config)(config.vision_config)
        self.projector = Pali3Projector(config)
        self.text_encoder = text_encoder or AutoModel.from_config(config.text_config).encoder
        # T5Gemma multiplies its inputs by the inverse; image tokens enter unscaled (PaliGemma, section 3.1)
        scales_inputs = config.text_config.model_type == "t5gemma"
        self.image_scale = text_hidden_size(config) ** -0.5 if scales_inputs else 1.0
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's embedding table."""
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text encoder's embedding table."""
        self.text_encoder.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode and project images.

        Args:
            pixel_values: float[N, 3, H, W] or float[B, N, 3, H, W], in [-1, 1]; of an encoder for any aspect ratio
                patches, float[N, P, 3 * patch_size**2].
            spatial_shapes: of such an encoder int[N, 2], rows and columns of the patches.
            pixel_attention_mask: not used; `spatial_shapes` say where padding is.
            **kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, for the image encoder.

        Returns:
            The image encoder's output, with the projected tokens, float[N, P, D], as `pooler_output`; for any aspect
            ratio float[T, D], without padding.
        """
        if is_naflex(self.config.vision_config):
            encoded: Any = encode_patches(self.vision_tower, pixel_values, spatial_shapes, **kwargs)
            encoded.pooler_output = self.project_patches(encoded.last_hidden_state, spatial_shapes)
            return encoded
        images = pixel_values.flatten(0, -4)  # [N, 3, H, W]
        outputs = self.vision_tower(pixel_values=images, **kwargs)
        patch = self.config.vision_config.patch_size
        rows, columns = (side // patch for side in pixel_values.shape[-2:])
        outputs.pooler_output = self.project(outputs.last_hidden_state, rows, columns)
        return outputs

    def project(self, features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Project image features, float[N, rows * columns, D_vision], to image tokens, float[N, P, D]."""
        tokens = self.projector(features)  # [N, P, D]
        if self.config.image_positions == "sine":
            tokens = tokens + sine_positions(rows, columns, tokens.shape[-1]).to(tokens)
        return tokens

    def project_patches(self, features: torch.Tensor, spatial_shapes: Any) -> torch.Tensor:
        """Project features of images of any aspect ratio.

        Args:
            features: float[N, P, D_vision], with padding.
            spatial_shapes: int[N, 2], rows and columns of the patches, or with a dimension of examples in front.

        Returns:
            float[T, D], the tokens of all images without padding.
        """
        tokens = self.projector(without_padding(features, spatial_shapes))  # [T, D]
        if self.config.image_positions == "sine":
            shapes = spatial_shapes.flatten(0, -2).tolist()
            grids = [sine_positions(rows, columns, tokens.shape[-1]) for rows, columns in shapes]
            tokens = tokens + torch.cat(grids).to(tokens)
        return tokens

    def merge_images(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """Replace the placeholders' embeddings by image tokens, float[N, P, D] or [T, D], in order; float[B, L, D].

        Raises:
            ValueError: the numbers of placeholders and image tokens differ.
        """
        if input_ids is None:
            placeholder = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(placeholder)).all(-1)  # [B, L]
        else:
            mask = input_ids == self.config.image_token_id  # [B, L]
        mask = mask.unsqueeze(-1).expand_as(inputs_embeds)  # [B, L, D]
        if not torch.compiler.is_compiling() and mask.sum() != image_features.numel():
            tokens = int(mask.sum()) // inputs_embeds.shape[-1]
            images = " images of ".join(map(str, image_features.shape[:-1]))
            raise ValueError(
                f"{tokens} image placeholders in input_ids but {images} tokens: let the processor write the"
                " placeholders"
            )
        return inputs_embeds.masked_scatter(mask, image_features.to(inputs_embeds))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Pali3EncoderOutput:
        """Encode images and prefix.

        Args:
            input_ids: int[B, L], image placeholders included.
            attention_mask: int[B, L], 0 on padding.
            pixel_values: see `get_image_features`.
            inputs_embeds: float[B, L, D] in place of `input_ids`.
            image_features: float[N, P, D_vision], the image encoder's output for square images, in place of
                `pixel_values`: of a frozen encoder it can be computed once for all epochs. Of images of any aspect
                ratio with their `spatial_shapes`.
            spatial_shapes, pixel_attention_mask: see `get_image_features`.
            **kwargs: passed to the text encoder.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds` are given, or images twice.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        embeds: torch.Tensor = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if pixel_values is not None and image_features is not None:
            raise ValueError("give pixel_values or image_features, not both")
        tokens: Any = None
        if pixel_values is not None:
            # [N, P, D], or [T, D] of images of any aspect ratio
            tokens = self.get_image_features(pixel_values, spatial_shapes).pooler_output
        elif image_features is not None and is_naflex(self.config.vision_config):
            tokens = self.project_patches(image_features, spatial_shapes)
        elif image_features is not None:
            side = math.isqrt(image_features.shape[1])
            tokens = self.project(image_features, side, side)  # [N, P, D]
        if tokens is not None:
            embeds = self.merge_images(input_ids, embeds, tokens * self.image_scale)  # [B, L, D]
        outputs = self.text_encoder(inputs_embeds=embeds, attention_mask=attention_mask, **without_return_dict(kwargs))
        return Pali3EncoderOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=tokens,
        )


def without_return_dict(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Drop `return_dict`: inner modules return output classes, and only the outermost one makes tuples."""
    return {key: value for key, value in kwargs.items() if key != "return_dict"}


def embedding_tables(language_model: PreTrainedModel) -> list[torch.Tensor]:
    """The embedding tables of an encoder-decoder's inputs."""
    parts: Any = (language_model.get_encoder(), language_model.get_decoder())
    return [part.get_input_embeddings().weight for part in parts]
