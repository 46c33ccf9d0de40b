"""Transformers' Trainer after `apply_liger_kernel_to_paligemma`, with all its parts or one of them.

Triton's kernels run on GPUs. TRITON_INTERPRET=1 runs them on the CPU; of Liger's, only the rotary one can be.
"""

from typing import Any

import transformers_trainer
from liger_kernel.transformers import apply_liger_kernel_to_paligemma
from probes import Case, ask


def variant(**options: bool) -> tuple[Any, Any]:
    """`build` and `load` with options of the patch."""

    def build(case: Case) -> Any:
        apply_liger_kernel_to_paligemma(**options)
        return transformers_trainer.build(case)

    return build, transformers_trainer.load


NONE = {"rope": False, "layer_norm": False, "rms_norm": False, "geglu": False, "fused_linear_cross_entropy": False}
VARIANTS = {
    "all": variant(),
    "fused loss": variant(**NONE | {"fused_linear_cross_entropy": True}),
    "rotary": variant(**NONE | {"rope": True}),
}

if __name__ == "__main__":
    ask(VARIANTS, ["liger_kernel", "triton", "transformers", "accelerate", "torch"])
