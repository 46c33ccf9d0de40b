"""Random weights of the mask VQ-VAE for which the released code's outputs are known.

They are stored as 16-bit steps, half their size: outputs differ by up to 5e-5 from the known ones (with the weights in
float32 by 9e-7), and no index changes.
"""

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[2] / "fixtures"


def released_arrays() -> dict[str, np.ndarray]:
    """Weights by their released names, float32."""
    with np.load(FIXTURES / "mask_vae_weights_int16.npz") as file:
        names = [name for name in file.files if not name.endswith("/step")]
        return {name: file[name].astype(np.float32) * file[f"{name}/step"] for name in names}
