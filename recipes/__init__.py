"""One file per training stage, readable from top to bottom."""

from pathlib import Path

from openpali.modeling.four_bit import silence_bitsandbytes

# before the recipes import Transformers' Trainer, which imports peft, which imports bitsandbytes
silence_bitsandbytes()
# `python -m openpali.recipes.stage_costs` of 0.1 is found until 0.2
__path__.append(str(Path(__file__).parent / "costs" / "old_names"))
