"""Convert the released mask VQ-VAE into a checkpoint for `MaskVQVAE` and Transformers' AutoModel.

    python -m openpali.scripts.convert_mask_vqvae vae-oid.npz outputs/mask-vqvae

PaliGemma's file is gs://big_vision/paligemma/vae-oid.npz.
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch

from openpali.modeling.configuration_mask_vqvae import MaskVQVAEConfig
from openpali.modeling.export import export
from openpali.modeling.modeling_mask_vqvae import MaskVQVAE
from openpali.modeling.user_errors import command

STATISTICS = ("_vq_vae._ema_cluster_size", "_vq_vae._ema_w")
"""Training state of the codebook, which released files lack."""


def load_released(path: str | Path) -> MaskVQVAE:
    """Load the model from an `.npz` of the released layout.

    Args:
        path: of the file, which is never unpickled.

    Returns:
        The model in evaluation mode, with uniform usage counts of its codes.

    Raises:
        ValueError: naming the file and the keys that are missing, unknown or of another shape.
    """
    arrays = read_arrays(Path(path))
    model = MaskVQVAE(MaskVQVAEConfig())
    state = model.state_dict()
    expected = {key: tuple(value.shape) for key, value in state.items() if key not in STATISTICS}
    wrong = {
        "lacks": [key for key in expected if key not in arrays],
        "has an unknown": [key for key in arrays if key not in expected],
        "has another shape of": [key for key in expected if key in arrays and arrays[key].shape != expected[key]],
    }
    for problem, keys in wrong.items():
        if keys:
            raise ValueError(f"{path} {problem} {', '.join(keys[:3])}: it is not a mask VQ-VAE of the released layout")
    state |= {key: torch.from_numpy(arrays[key].astype(np.float32)) for key in expected}
    state[STATISTICS[0]] = torch.ones_like(state[STATISTICS[0]])
    state[STATISTICS[1]] = state["_vq_vae._embedding"].clone()
    model.load_state_dict(state)
    return model.eval()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name. Raises ValueError if it is invalid or holds pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error


@command("error", ValueError)
def main(argv: list[str] | None = None) -> None:
    """Convert a file into a folder that includes the model code."""
    parser = argparse.ArgumentParser(prog="convert_mask_vqvae", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help=".npz of the released layout")
    parser.add_argument("folder", type=Path, help="output folder")
    arguments = parser.parse_args(argv)
    model = load_released(arguments.file)
    print(f"wrote {export(model, None, arguments.folder)}")


if __name__ == "__main__":
    main()
