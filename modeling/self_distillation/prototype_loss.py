"""The loss of self-distillation (DINO, arXiv 2104.14294): student and teacher assign features to prototypes.

A head makes a narrow unit vector of a feature; its similarities with `K` learned directions, the prototypes, are
logits. The teacher's, minus their running mean over all images (the centre), are sharpened to probabilities, which the
student's are to match. Centre and sharpening together keep both from a constant answer.

As in `contrastive_loss.py`, logits are freed with their chunk, in training too: gradients of a chunk are computed at
once. With 65,536 prototypes those of all masked patches of a batch would not fit into memory.

Shapes: `N` features of the teacher, `V` features of the student that match each of them, `D` width of the heads'
output, `K` prototypes.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from openpali.modeling.contrastive_loss import widen

# logits of a chunk: 32 MB in float32
MOST_LOGITS = 2**23


class PrototypeHead(nn.Module):
    """Three layers from features to unit vectors, and the prototypes that these are compared with.

    Args:
        width: of the features.
        hidden: width between the layers.
        bottleneck: width of the unit vectors.
        prototypes: their number.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (
            nn.Linear(width, hidden),
            nn.Linear(hidden, hidden),
            nn.Linear(hidden, bottleneck),
        )
        # not a linear layer, since directions do not decay
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in (self.fc1, self.fc2, self.fc3):
            # 0.02 at DINO's width of 2,048; a fixed number would let narrow heads make vectors near zero, whose
            # directions have huge gradients
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[..., width] to unit vectors, float[..., bottleneck] in float32."""
        hidden = nn.functional.gelu(self.fc2(nn.functional.gelu(self.fc1(features))))
        return normalize(widen(self.fc3(hidden)), dim=-1)

    def directions(self) -> torch.Tensor:
        """The prototypes as unit vectors, float[K, bottleneck] in float32."""
        return normalize(widen(self.prototypes), dim=-1)


def prototype_loss(
    student: torch.Tensor,
    student_prototypes: torch.Tensor,
    teacher: torch.Tensor,
    teacher_prototypes: torch.Tensor,
    center: torch.Tensor,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    chunk_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy between assignments, a mean over all features of the student.

    `-sum_k q_k log softmax(s / student_temperature)_k` with `q = softmax((t - center) / teacher_temperature)`. No
    gradient reaches teacher and centre.

    Args:
        student: float[N, V, D], unit vectors.
        student_prototypes: float[K, D], unit vectors.
        teacher: float[N, D], unit vectors.
        teacher_prototypes: float[K, D], unit vectors.
        center: float[K], the mean of the teacher's logits.
        student_temperature: of the student's logits.
        teacher_temperature: of the teacher's.
        chunk_size: teacher's features whose logits are computed at a time; by default such that a chunk has 2^23.

    Returns:
        The loss float[] in nats, and the mean entropy of the teacher's assignments, float[], without gradient. The
        loss cannot be lower; at ln K every assignment is even, at 0 each is one prototype.
    """
    options = student_temperature, teacher_temperature, chunk_size
    return _PrototypeLoss.apply(student, student_prototypes, teacher, teacher_prototypes, center, *options)  # pyright: ignore


class _PrototypeLoss(torch.autograd.Function):
    """Loss, entropy, and the gradients of student and student's prototypes, in chunks of the teacher's features."""

    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        student_prototypes: torch.Tensor,
        teacher: torch.Tensor,
        teacher_prototypes: torch.Tensor,
        center: torch.Tensor,
        student_temperature: float,
        teacher_temperature: float,
        chunk_size: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        number, views = student.shape[:2]
        own, own_rows = widen(student), widen(student_prototypes)
        true, true_rows, shift = widen(teacher), widen(teacher_prototypes), widen(center)
        loss, entropy = own.new_zeros(()), own.new_zeros(())
        grad_student, grad_rows = torch.zeros_like(own), torch.zeros_like(own_rows)
        train = any(ctx.needs_input_grad)
        step = chunk_size or max(1, MOST_LOGITS // (views * len(own_rows)))
        with torch.autocast(own.device.type, enabled=False):
            for start in range(0, number, step):
                rows = slice(start, start + step)
                log_target = ((true[rows] @ true_rows.T - shift) / teacher_temperature).log_softmax(-1)  # [n, K]
                target = log_target.exp()
                entropy -= (target * log_target).sum()
                features = own[rows].flatten(0, 1)  # [n * V, D]
                log_p = (features @ own_rows.T / student_temperature).log_softmax(-1).unflatten(0, (-1, views))
                loss -= (target[:, None] * log_p).sum()
                if train:
                    gradient = log_p.exp_().sub_(target[:, None]).flatten(0, 1)  # [n * V, K]
                    grad_student[rows] = (gradient @ own_rows).unflatten(0, (-1, views))
                    grad_rows.addmm_(gradient.T, features)
        ctx.mark_non_differentiable(entropy)
        if train:
            scale = 1 / (number * views * student_temperature)
            ctx.types = student.dtype, student_prototypes.dtype
            ctx.save_for_backward(grad_student.mul_(scale), grad_rows.mul_(scale))
        return loss / (number * views), entropy.div_(number)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        gradients = [(saved * weight).to(dtype) for saved, dtype in zip(ctx.saved_tensors, ctx.types)]
        return (*gradients, None, None, None, None, None, None)
