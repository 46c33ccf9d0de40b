"""How far apart two right results may be on any machine: float32's rounding, and nothing else.

The order in which numbers are added decides the last bits of the sum. It depends on the width of the processor's
vectors, the library that multiplies matrices, the number of threads, the other rows of a batch, and the address at
which a tensor lies: weights that were loaded stay where they lie in their file, new ones are put where the processor
reads best. So the same formula on the same values gives other last bits, and both are right.

What is exact by construction is compared exactly and not with these: CONTRIBUTING.md tells what that is.
"""

from collections.abc import Mapping
from typing import Any

import torch

# from 1 to the next float32
ROUNDING = torch.finfo(torch.float32).eps
# Results and gradients of the tiny models are 20 roundings apart between kernels, and 220 when the last bit of every
# matrix product is drawn at random. What a mistake changes is hundreds of times as much.
ROUNDINGS = 256


def assert_same_but_rounding(found: Any, expected: Any, scale: float | None = None, written: float = 0.0) -> None:
    """Compare computed floats: tensors, arrays, numbers or lists of numbers.

    Args:
        found: of any shape.
        expected: of the same shape.
        scale: the largest of the numbers that were added; the largest one of `expected` when None, because small
            results come of adding large numbers too.
        written: the step of the last digit, where the numbers were written with few.
    """
    found, expected = (torch.as_tensor(values).detach().double() for values in (found, expected))
    assert found.shape == expected.shape
    scale = float(expected.abs().max()) if scale is None else scale
    apart, allowed = float((found - expected).abs().max()), ROUNDINGS * ROUNDING * scale + written
    assert apart <= allowed, f"{apart:.2e} apart, of which rounding explains {allowed:.2e}"


def assert_same_gradients(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare gradients by name. Some are zero in exact arithmetic, as the keys' biases have, and noise in floats."""
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert_same_but_rounding(found[name], gradient, scale)
