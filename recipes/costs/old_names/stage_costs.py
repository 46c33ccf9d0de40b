"""`python -m openpali.recipes.stage_costs` is called `openpali costs` now; it is found by its old name until 0.2."""

import sys

from openpali.recipes.costs.command import main

if __name__ == "__main__":
    print("python -m openpali.recipes.stage_costs is called openpali costs now", file=sys.stderr, flush=True)
    main()
