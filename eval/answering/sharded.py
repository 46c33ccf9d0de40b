"""Models whose weights are spread over processes: their parts cannot run alone, and all processes go in step."""

from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether FSDP or ZeRO-3 holds the weights."""
    fsdp = FSDPModule, FullyShardedDataParallel
    return is_deepspeed_zero3_enabled() or any(isinstance(module, fsdp) for module in model.modules())
