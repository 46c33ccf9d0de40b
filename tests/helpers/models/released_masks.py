"""The mask VQ-VAE whose outputs the authors' code printed, for tests.

Its random weights are kept as 16-bit steps, half their size: outputs then differ by up to 5e-5 from the printed ones
(with the weights in full by 9e-7), and no index changes.
"""

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[2] / "fixtures"


def released_arrays() -> dict[str, np.ndarray]:
    """Weights by their released names, float32."""
    with np.load(FIXTURES / "mask_vae_weights_int16.npz") as file:
        names = [name for name in file.files if not name.endswith("/step")]
        return {name: file[name].astype(np.float32) * file[f"{name}/step"] for name in names}
