"""PaLI-3 for `AutoModelForMultimodalLM`, which `transformers serve` and the any-to-any pipeline load.

They treat every model as decoder-only and cut the prompt's length off its output. So `generate` returns the prompt and
then the answer here; all else is as in PaLI-3.

Shapes: `B` examples, `L` tokens of a sequence, `S` suffix tokens.
"""

from typing import Any

import torch
from transformers.modeling_outputs import ModelOutput

from .modeling_pali3 import Pali3ForConditionalGeneration


class Pali3ForMultimodalLM(Pali3ForConditionalGeneration):
    """PaLI-3 whose `generate` returns int[B, L + S]: the prompt, then the answer without its start token."""

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate as in Transformers; sequences begin with `input_ids`, if there are any.

        Args:
            inputs: int[B, L], or `input_ids` by its name.
            *args, **kwargs: as in Transformers.
        """
        mixin: Any = super()
        answer = mixin.generate(inputs, *args, **kwargs)
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        sequences = answer["sequences"] if isinstance(answer, ModelOutput) else answer
        sequences = sequences[:, 1:]  # [B, S]
        if prompt is not None:
            prompt = prompt.repeat_interleave(sequences.shape[0] // prompt.shape[0], dim=0)
            sequences = torch.cat([prompt.to(sequences.device), sequences], dim=1)  # [B, L + S]
        if not isinstance(answer, ModelOutput):
            return sequences
        answer["sequences"] = sequences
        return answer


__all__ = ["Pali3ForMultimodalLM"]
