"""Weights of a checkpoint, put into a model that is whole on each device or lies there in shards."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from openpali.eval.answering.load_model import adapter_parameters, load_adapter_weights
from openpali.modeling.user_errors import CheckpointError
from openpali.recipes.training.engines import plugin_of


def load_weights(model: nn.Module, folder: Path | str) -> None:
    """Load a checkpoint's weights into a model, all of them or none.

    The Trainer loads with strict=False and only warns about missing names, so it trains on from wrong weights
    wherever names on disk differ from names in memory; `from_pretrained` maps between them. A checkpoint of a model
    with adapters holds the adapters alone.

    Raises:
        CheckpointError: naming parameters that the checkpoint lacks.
    """
    assert isinstance(model, PreTrainedModel)
    if adapter_parameters(model):
        load_adapter_weights(model, folder)
    else:
        model.load_state_dict(read_checkpoint(type(model), model, folder).state_dict(), strict=True)


def load_into(model: PreTrainedModel, folder: Path | str, accelerator: Accelerator) -> None:
    """The same for a model that may be sharded; called by all processes.

    Raises:
        CheckpointError: naming parameters that the checkpoint lacks.
    """
    if isinstance(model, FSDPModule):
        # fully_shard has put a class of its own before the model's
        kind = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
        whole = read_checkpoint(kind, model, folder).state_dict() if accelerator.is_main_process else {}
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
        set_model_state_dict(model, whole, options=options)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED and plugin_of(accelerator).zero_stage == 3:
        load_into_zero3(model, folder, accelerator)
    else:
        load_weights(model, folder)


def load_into_zero3(model: PreTrainedModel, folder: Path | str, accelerator: Accelerator) -> None:
    """The same under ZeRO-3, which gathers a parameter inside a context and sends it from one process."""
    from deepspeed.runtime.zero import GatheredParameters  # pyright: ignore[reportMissingImports]
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    # from_pretrained would shard this model too, and initialise its flat weights as if they were whole
    unset_hf_deepspeed_config()
    try:
        main = accelerator.is_main_process
        whole = dict(read_checkpoint(type(model), model, folder).named_parameters()) if main else {}
    finally:
        set_hf_deepspeed_config(plugin_of(accelerator).hf_ds_config)
    for name, parameter in model.named_parameters():
        with torch.no_grad(), GatheredParameters([parameter], modifier_rank=0):
            if whole:
                parameter.copy_(whole[name])


def read_checkpoint(kind: Any, model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """A model of class `kind` with the configuration and dtype of `model`, from a checkpoint.

    Raises:
        CheckpointError: naming parameters that the checkpoint lacks.
    """
    loaded, info = kind.from_pretrained(folder, config=model.config, dtype=model.dtype, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} parameters, among them {', '.join(missing[:3])}")
    return loaded
