"""SigLIP 2's pretraining (arXiv 2502.14786): the towers of SigLIP with further losses on the image encoder.

- contrastive: SigLIP's sigmoid loss;
- caption: a decoder writes captions, boxes and texts of boxes from the un-pooled image tokens (LocCa);
- local: pooled features of local views match those that a teacher has of the whole view (SILC, arXiv 2310.13355);
- masked: where patches of the whole view are masked, the student's features match the teacher's (TIPS, arXiv
  2410.16512).

The last two are computed where a batch holds views. The teacher is an exponential moving average of the student and
gets no gradient. `siglip` is the result, decoder and heads are left behind.

Shapes: `B` images, `P` patches, `M` masked patches of an image, `V` local views, `E` width of the image tokens, `D` of
the heads' output, `K` prototypes, `H W` pixels, `h w` pixels of a local view.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel, SiglipVisionModel
from transformers.utils import ModelOutput

from openpali.modeling.captioner.modeling_caption_decoder import CaptionDecoder
from openpali.modeling.modeling_siglip import SiglipForContrastiveLearning
from openpali.modeling.self_distillation.configuration_siglip_pretraining import SiglipPretrainingConfig
from openpali.modeling.self_distillation.prototype_loss import PrototypeHead, prototype_loss

LOSSES = ("contrastive", "caption", "local", "masked")
ENTROPIES = ("local_entropy", "masked_entropy")
CENTER_MOMENTUM = 0.9


@dataclass
class SiglipPretrainingOutput(ModelOutput):
    """Output of `SiglipForPretraining`.

    Args:
        loss: float[], the weighted sum of the losses.
        parts: each loss by its name, before its weight, and with views the entropies of the teacher's assignments;
            float[], without gradient.
    """

    loss: torch.Tensor | None = None
    parts: dict[str, torch.Tensor] | None = None


class Heads(nn.Module):
    """A head for pooled features and one for those of patches."""

    def __init__(self, config: SiglipPretrainingConfig):
        super().__init__()
        sizes = config.head_hidden_size, config.head_bottleneck_size, config.prototypes
        width = config.siglip_config.vision_config.hidden_size
        self.local, self.masked = PrototypeHead(width, *sizes), PrototypeHead(width, *sizes)


class Teacher(nn.Module):
    """An image encoder with heads, always in evaluation mode and without gradients."""

    def __init__(self, config: SiglipPretrainingConfig):
        super().__init__()
        self.vision_model = SiglipVisionModel._from_config(config.siglip_config.vision_config)
        self.heads = Heads(config)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)


class SiglipForPretraining(PreTrainedModel):
    """SigLIP with a text decoder and, with `config.distillation`, a teacher and heads.

    Attributes:
        siglip: the two towers.
        decoder: on the image tokens.
        heads: of the student.
        mask_token: in place of a masked patch's embedding, before its position is added.
        teacher: see `start_teacher` and `update_teacher`.
        local_center, masked_center: float[K], running means of the teacher's logits, see `update_centers`.
        late_steps: int[], steps that the teacher has followed; 0 before it has started.
    """

    config: SiglipPretrainingConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    config_class = SiglipPretrainingConfig
    base_model_prefix = "siglip_pretraining"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _keep_in_fp32_modules_strict = {"logit_scale", "logit_bias"}
    _no_split_modules = ["SiglipEncoderLayer", "CaptionBlock"]
    _supports_sdpa = True

    def __init__(self, config: SiglipPretrainingConfig):
        super().__init__(config)
        self.siglip = SiglipForContrastiveLearning(config.siglip_config)
        self.decoder = CaptionDecoder._from_config(config.decoder_config)
        if config.distillation:
            self.heads = Heads(config)
            self.mask_token = nn.Parameter(0.02 * torch.randn(config.siglip_config.vision_config.hidden_size))
            self.teacher = Teacher(config)
            self.register_buffer("local_center", torch.zeros(config.prototypes))
            self.register_buffer("masked_center", torch.zeros(config.prototypes))
            self.register_buffer("late_steps", torch.zeros((), dtype=torch.int64))
        # sum and number of the teacher's logits since the last `update_centers`; no buffers, which DDP would overwrite
        self.sums: dict[str, list[torch.Tensor]] = {}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: all parts initialise themselves."""

    def get_input_embeddings(self) -> nn.Module:
        """The text tower's token table."""
        return self.siglip.text_model.embeddings.token_embedding

    @property
    def dtype(self) -> torch.dtype:
        """The type of the towers; Transformers would take that of the first parameter, the temperature."""
        return self.siglip.dtype

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        image_keys: torch.Tensor | None = None,
        text_keys: torch.Tensor | None = None,
        global_views: torch.Tensor | None = None,
        local_views: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
        **written: torch.Tensor,
    ) -> SiglipPretrainingOutput:
        """Compute the losses of a batch.

        Args:
            pixel_values: float[B, 3, H, W] in [-1, 1], plain images.
            input_ids, image_keys, text_keys: see `SiglipForContrastiveLearning`.
            global_views: float[B, 3, H, W], of self-distillation; no such losses when left out.
            local_views: float[B, V, 3, h, w].
            masked: int[B, M], numbers of the patches of the global view that the student does not see.
            **written: texts of the decoder, see `CaptionDecoder.example_losses`.
        """
        image = self.siglip.vision_model(pixel_values=pixel_values)
        text = self.siglip.get_text_features(input_ids=input_ids)[1]
        pooled: Any = image.pooler_output, text
        parts: dict[str, Any] = {"contrastive": self.siglip.contrast(pooled, image_keys, text_keys).loss}
        if written:
            parts["caption"] = self.decoder.loss(image.last_hidden_state, **written)
        if global_views is not None and local_views is not None and masked is not None:
            parts |= self.distil(global_views, local_views, masked)
        loss = sum(self.weight(name) * parts[name] for name in LOSSES if name in parts)
        known = {name: part.detach() for name, part in parts.items()}
        return SiglipPretrainingOutput(loss=loss, parts=known)  # pyright: ignore[reportArgumentType]

    def weight(self, name: str) -> float:
        """The weight of one of `LOSSES`."""
        return getattr(self.config, f"{name}_weight", 1.0)

    def distil(
        self, global_views: torch.Tensor, local_views: torch.Tensor, masked: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses of self-distillation and the entropies of the teacher's assignments; arguments of `forward`."""
        batch, views = local_views.shape[:2]
        with torch.no_grad():
            seen = self.teacher.vision_model(pixel_values=global_views)
            whole = self.teacher.heads.local(seen.pooler_output)  # [B, D]
            patches = self.teacher.heads.masked(at_patches(seen.last_hidden_state, masked)).flatten(0, 1)  # [B * M, D]
        small = self.siglip.vision_model(pixel_values=local_views.flatten(0, 1), interpolate_pos_encoding=True)
        local = self.heads.local(small.pooler_output).unflatten(0, (batch, views))  # [B, V, D]
        hidden = self.heads.masked(at_patches(self.masked_tokens(global_views, masked), masked))  # [B, M, D]
        return self.matched("local", local, whole) | self.matched("masked", hidden.flatten(0, 1)[:, None], patches)

    def matched(self, name: str, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
        """A loss of float[N, V, D] and float[N, D], and the teacher's entropy; counts the teacher's logits."""
        config, own, true = self.config, getattr(self.heads, name), getattr(self.teacher.heads, name)
        prototypes, center = true.directions(), getattr(self, f"{name}_center")
        temperatures = config.student_temperature, config.teacher_temperature
        loss, entropy = prototype_loss(student, own.directions(), teacher, prototypes, center, *temperatures)
        if self.training:
            logits, number = self.sums.get(name, [torch.zeros_like(center), center.new_zeros(())])
            # bfloat16 would round a sum over thousands of patches
            with torch.no_grad(), torch.autocast(center.device.type, enabled=False):
                self.sums[name] = [logits + prototypes @ teacher.sum(0), number + len(teacher)]
        return {name: loss, f"{name}_entropy": entropy}

    def masked_tokens(self, pixel_values: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Image tokens float[B, P, E] of images whose patches `masked` int[B, M] are the mask token."""
        vision: Any = self.siglip.vision_model
        positions = vision.embeddings.position_embedding(vision.embeddings.position_ids)  # [1, P, E]
        states = vision.embeddings(pixel_values)
        hidden = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device).scatter(1, masked, True)
        states = torch.where(hidden[..., None], self.mask_token + positions, states)
        return vision.post_layernorm(vision.encoder(inputs_embeds=states).last_hidden_state)

    def pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each parameter of the teacher with the student's."""
        for teacher, student in (
            (self.teacher.vision_model, self.siglip.vision_model),
            (self.teacher.heads, self.heads),
        ):
            yield from zip(teacher.parameters(), student.parameters(), strict=True)

    @torch.no_grad()
    def start_teacher(self) -> None:
        """Make the teacher a copy of the student."""
        for teacher, student in self.pairs():
            teacher.copy_(student)

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the student: `decay * teacher + (1 - decay) * student`. Counts the step."""
        for teacher, student in self.pairs():
            teacher.mul_(decay).add_(student, alpha=1 - decay)
        self.late_steps += 1

    @torch.no_grad()
    def update_centers(self, momentum: float = CENTER_MOMENTUM) -> None:
        """Move the centres towards the mean of the teacher's logits since the last call, over all processes."""
        for name, (logits, number) in self.sums.items():
            both = torch.cat([logits, number[None]])
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(both)
            getattr(self, f"{name}_center").mul_(momentum).add_(both[:-1] / both[-1], alpha=1 - momentum)
        self.sums = {}


def at_patches(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """float[B, M, E], the tokens float[B, P, E] at places int[B, M]."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


__all__ = ["SiglipForPretraining"]
