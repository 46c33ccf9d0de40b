"""`python benchmarks/import_time.py`: time of `import openpali`, against importing the Transformers classes it uses.

Each import runs in new processes, alternately, after one of each that warms the file cache. The goal is a ratio of at
most 1.20: whoever uses PaLI-3 through `pipeline` imports Transformers anyway.
"""

import argparse
import statistics
import subprocess
import sys
import time

NEEDED = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer
from transformers import BatchFeature, GenerationMixin, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
"""
STATEMENTS = {"transformers' classes": NEEDED, "import openpali": "import openpali", "nothing": "pass"}


def seconds(statement: str) -> float:
    """Wall time of a new interpreter that runs one statement."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - begin


def main(argv: list[str] | None = None) -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="processes for each statement")
    runs = parser.parse_args(argv).runs
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for run in range(runs + 1):
        for name, statement in STATEMENTS.items():
            taken = seconds(statement)
            if run:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<24}{median:6.2f} s  (fastest {min(times[name]):.2f} s, {runs} runs)")
    start = medians["nothing"]
    ratio = (medians["import openpali"] - start) / (medians["transformers' classes"] - start)
    print(f"ratio, without the interpreter's own start: {ratio:.2f} (goal: 1.20 at most)")


if __name__ == "__main__":
    main()
