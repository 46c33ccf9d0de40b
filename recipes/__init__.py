"""One file per training stage, readable from top to bottom."""

from openpali.modeling.four_bit import quiet_bitsandbytes

# before the recipes import Transformers' Trainer, which imports peft, which imports bitsandbytes
quiet_bitsandbytes()
