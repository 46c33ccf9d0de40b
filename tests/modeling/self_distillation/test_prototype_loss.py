"""The loss of self-distillation against its plain formula."""

from typing import Any

import pytest
import torch
from tolerances import assert_same_but_rounding, assert_same_gradients

from openpali.modeling.self_distillation.prototype_loss import PrototypeHead, prototype_loss


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_loss_entropy_and_gradients_by_hand(chunk_size):
    random = torch.Generator().manual_seed(0)
    shapes = {"student": (5, 3, 4), "student_prototypes": (7, 4), "teacher": (5, 4), "teacher_prototypes": (7, 4)}
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    inputs: Any = {
        name: torch.nn.functional.normalize(value, dim=-1).requires_grad_() for name, value in drawn.items()
    }
    center = torch.randn(7, generator=random).mul(0.1).requires_grad_()
    found, entropy = prototype_loss(**inputs, center=center, chunk_size=chunk_size)
    (2 * found).backward()
    gradients = {name: inputs[name].grad for name in ("student", "student_prototypes")}
    # nothing reaches the teacher
    assert inputs["teacher"].grad is None
    assert inputs["teacher_prototypes"].grad is None
    assert center.grad is None
    for value in inputs.values():
        value.grad = None
    target = ((inputs["teacher"] @ inputs["teacher_prototypes"].T - center) / 0.04).softmax(-1).detach()
    logs = (inputs["student"] @ inputs["student_prototypes"].T / 0.1).log_softmax(-1)
    expected = -(target[:, None] * logs).sum(-1).mean()
    assert_same_but_rounding(found, expected)
    assert_same_but_rounding(entropy, -(target * target.log()).sum(-1).mean())
    (2 * expected).backward()
    assert_same_gradients(gradients, {name: inputs[name].grad for name in gradients})


def test_heads_make_unit_vectors_and_only_their_layers_decay():
    from openpali.recipes.training.optimizer import matrix_names

    head = PrototypeHead(6, 8, 4, 10)
    for vectors in (head(torch.randn(2, 3, 6)), head.directions()):
        assert_same_but_rounding(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert matrix_names(head) == {"fc1.weight", "fc2.weight", "fc3.weight"}
