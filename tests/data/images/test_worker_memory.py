import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, resource
from openpali.data.images.worker_memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def use(size):
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    library.free(block)
use(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such option")
def test_the_next_image_needs_no_new_pages():
    faults = []
    for keep in (True, False):
        # as glibc starts: a freed large block would otherwise raise the limits by itself
        code = CODE.format(keep=keep)
        environment = {} if keep else {"MALLOC_MMAP_THRESHOLD_": "131072"}
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-c", code]
        faults.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert faults[0] < 100
    assert faults[1] > 1000
