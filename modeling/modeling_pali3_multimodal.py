"""PaLI-3 behind `AutoModelForMultimodalLM`: what `transformers serve` and the any-to-any pipeline load.

They take every model for a decoder that goes on where its prompt ends, and cut answers by the prompt's length. Here
`generate` gives back the prompt and then the answer, as they expect it; nothing else differs.
"""

from typing import Any

import torch
from transformers.modeling_outputs import ModelOutput

from .modeling_pali3 import Pali3ForConditionalGeneration


class Pali3ForMultimodalLM(Pali3ForConditionalGeneration):
    """PaLI-3 whose `generate` returns int[B, L + T]: the prompt, then the answer without its start token."""

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """See Transformers' `generate`; sequences begin with `input_ids`, where there are any.

        Args:
            inputs: int[B, L], or `input_ids` by its name.
            *args, **kwargs: as in Transformers.
        """
        mixin: Any = super()
        answer = mixin.generate(inputs, *args, **kwargs)
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        sequences = answer["sequences"] if isinstance(answer, ModelOutput) else answer
        sequences = sequences[:, 1:]
        if prompt is not None:
            prompt = prompt.repeat_interleave(sequences.shape[0] // prompt.shape[0], dim=0)
            sequences = torch.cat([prompt.to(sequences.device), sequences], dim=1)
        if not isinstance(answer, ModelOutput):
            return sequences
        answer["sequences"] = sequences
        return answer


__all__ = ["Pali3ForMultimodalLM"]
