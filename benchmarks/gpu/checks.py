"""Before anything is measured: the device computes the losses that the CPU computes in float32.

Toys of every model, the same weights and batch on both. In float32 the losses agree to 1e-4 (sums in another order,
TF32 off); in bfloat16, whose numbers have 8 bits, to 2 %.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from batches import mixed_suffixes, pali3_batch, paligemma_batch, siglip_batch
from models import new_pali3, new_paligemma, new_siglip

CPU = torch.device("cpu")
EXACT, COARSE = 1e-4, 2e-2


def toys() -> Iterator[tuple[str, Any, Callable[[Any], dict[str, torch.Tensor]]]]:
    """Name, toy on the CPU in float32, and what makes its batch."""
    suffixes = mixed_suffixes(4)
    for kind in ("stock", "full"):
        model = new_paligemma(kind, 56, True, CPU, torch.float32)
        yield f"PaliGemma, {kind}", model, lambda model: paligemma_batch(model, suffixes)
    model = new_paligemma("full", 56, True, CPU, torch.float32)
    yield "PaliGemma, packed", model, lambda model: paligemma_batch(model, suffixes, packed=512)
    yield "PaLI-3", new_pali3(True, CPU, torch.float32), lambda model: pali3_batch(model, 2)
    yield "SigLIP", new_siglip(True, CPU, torch.float32), lambda model: siglip_batch(model, 8)


def check(device: torch.device) -> list[str]:
    """A line for each toy whose loss on the device is not the CPU's; prints all losses."""
    wrong = []
    for name, model, make_batch in toys():
        torch.manual_seed(0)
        batch = make_batch(model)
        expected = model(**batch).loss.item()
        moved = {key: value.to(device) for key, value in batch.items()}
        exact = model.to(device)(**moved).loss.item()
        moved["pixel_values"] = moved["pixel_values"].bfloat16()
        coarse = model.bfloat16()(**moved).loss.item()
        print(f"check: {name}: loss {expected:.5f} on the CPU, {exact:.5f} here, {coarse:.3f} in bfloat16")
        if abs(exact - expected) > EXACT * abs(expected) or abs(coarse - expected) > COARSE * abs(expected):
            wrong.append(f"{name}: {exact} and {coarse} in bfloat16, where the CPU has {expected}")
    return wrong
