"""A recipe on CPUs that accelerate takes for GPUs: on the former it makes DDP of FSDP without a word.

accelerate launch --config_file FILE tests/engines/as_on_gpus.py openpali.recipes.transfer --config ...
"""

import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState
from engine_run import present_cpu_as_gpu

begin = AcceleratorState.__init__


def begin_as_on_gpus(self: AcceleratorState, *args: Any, **options: Any) -> None:
    """When the first one begins, the processes have found each other, over gloo."""
    if not AcceleratorState._shared_state:
        present_cpu_as_gpu()
    begin(self, *args, **options)


if __name__ == "__main__":
    del sys.argv[0]
    AcceleratorState.__init__ = begin_as_on_gpus
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
