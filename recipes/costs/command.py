"""Costs of a training before it is started: memory, FLOPs, what fits on one GPU, and the least number of GPUs.

    openpali costs --config pali3/stage2-1064 --processes 64
    openpali costs --config transfers/docvqa --resolution 896 --peft lora
    openpali costs --model my-checkpoint --peft qlora
    openpali costs --table

It takes any configuration with any option of its stage, or a checkpoint to fine-tune: a folder, a published name, or a
preset such as paligemma/2-10b. `--table` prints the guide's table: what fits into 16, 24, 48 and 80 GB.
"""

import argparse

from openpali.modeling.user_errors import at_least
from openpali.recipes.costs.gpu_table import table_lines
from openpali.recipes.costs.plan import plan_training
from openpali.recipes.costs.stage_costs import stage_costs
from openpali.recipes.run.command_line import command


@command
def main(argv: list[str] | None = None) -> None:
    """Print the costs of a configuration or of a checkpoint's fine-tuning, or the table of what fits."""
    parser = argparse.ArgumentParser(prog="openpali costs", add_help=False)
    parser.add_argument("--processes", type=at_least(1), help="GPUs that the stage is meant for")
    parser.add_argument("--table", action="store_true", help="what fits into GPUs of several sizes")
    options, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        print("\nand any option of the configuration's stage:\n")
    if options.table:
        print("\n".join(table_lines()))
        return
    costs, table = stage_costs(plan_training(rest))
    print(table)
    print("\n".join(costs.lines(options.processes)))


if __name__ == "__main__":
    main()
