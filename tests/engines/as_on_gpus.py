"""A recipe on CPUs that accelerate takes for GPUs: on the former it makes DDP of FSDP without a word.

accelerate launch --config_file FILE tests/engines/as_on_gpus.py openpali.recipes.transfer --config ...
"""

import runpy
import sys

from engine_run import present_cpu_as_gpu

if __name__ == "__main__":
    del sys.argv[0]
    present_cpu_as_gpu()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
