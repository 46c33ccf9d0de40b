"""Transfers at another resolution: the keys that differ at it, and the resized model."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from openpali.data.files.config import ConfigError, as_dict, typed
from openpali.modeling.auto import check_tokens, checkpoint_config, load_answering, load_processor
from openpali.modeling.image_patches import is_naflex
from openpali.modeling.resolution import set_image_tokens, set_resolution
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.command_line import known_keys, read_values
from openpali.recipes.start.adapters import TRAINED, AdapterArguments, load_for_training

RESIZED_FOLDER = "resized"


def resolution_keys(classes: list[type], argv: list[str] | None) -> dict[str, Any]:
    """The block of `resolutions` for the resolution of a run.

    That is `--resolution`, or the checkpoint's image size; a size without a block has no keys. Of mappings such as
    `task` a block holds only the entries that differ. The result clears `resolutions`, so that a resolved
    configuration is not changed again.

    Raises:
        ConfigError: a block of any resolution has an unknown key or a value of the wrong type.
    """
    given = read_values(classes, argv).values
    blocks, known, found = as_dict(given["resolutions"], "resolutions"), known_keys(classes), {}
    for size, block in blocks.items():
        if not size.isdigit() or not isinstance(block, dict | None):
            raise ConfigError(f"resolutions: {size} must be a size in pixels and its keys, as in 448: {{seed: 1}}")
        found[int(size)] = typed(block or {}, known, f"resolutions: {size}")
    if not blocks:
        return {}
    chosen = found.get(given["resolution"] or checkpoint_image_size(given["model"]) or 0, {})
    merged = {
        key: as_dict(given[key], key) | value if isinstance(value, dict) else value for key, value in chosen.items()
    }
    return merged | {"resolutions": None}


def checkpoint_image_size(model: str | None) -> int | None:
    """Side of a checkpoint's images in pixels; None where it cannot be read, which raises where it is loaded."""
    try:
        return checkpoint_config(model or "").vision_config.image_size
    except (OSError, ValueError, AttributeError):
        return None


def load_resized(
    folder: str,
    size: int | None,
    adapters: AdapterArguments,
    dtype: Any,
    run: RunArguments,
    image_tokens: int | None = None,
) -> tuple[Any, PreTrainedModel]:
    """Load processor and model for images of `size` pixels, or of any aspect ratio with at most `image_tokens` tokens.

    Adapters are saved without their base model. Where that has to be resized, it is saved in the run's folder first,
    so that the adapters find it.

    Raises:
        ConfigError: the model does not support the size, or the number of tokens.
    """
    config, processor = checkpoint_config(folder), load_with_tokens(folder, image_tokens)
    if is_naflex(config.vision_config) and size is not None:
        raise ConfigError("resolution: images of any aspect ratio have no side in pixels: give image_tokens instead")
    if size is None or size == config.vision_config.image_size:
        return processor, with_all_tokens(folder, load_for_training(folder, adapters, dtype, run), processor)
    assert size is not None
    run.say(f"Images of {size} pixels in place of {config.vision_config.image_size}: position embeddings are resized")
    try:
        if adapters.peft == "none":
            model = with_all_tokens(folder, load_for_training(folder, adapters, dtype, run), processor)
            set_resolution(model, processor, size)
            return processor, model
        resized = run.folder / RESIZED_FOLDER
        with run.main_process_first(local=False):
            if run.process_index == 0 and not (resized / "config.json").exists():
                save_resized(folder, size, resized, run.incomplete_checkpoint)
    except ValueError as error:
        raise ConfigError(f"resolution: {error}") from error
    return load_processor(resized), load_for_training(str(resized.resolve()), adapters, dtype, run)


def load_with_tokens(folder: str, image_tokens: int | None) -> Any:
    """The processor of a checkpoint, for at most `image_tokens` tokens of an image of any aspect ratio.

    Raises:
        ConfigError: its images are square.
    """
    processor = load_processor(folder)
    if image_tokens is not None:
        try:
            set_image_tokens(processor, image_tokens)
        except ValueError as error:
            raise ConfigError(f"image_tokens: {error}") from error
    return processor


def with_all_tokens(folder: str, model: PreTrainedModel, processor: Any) -> PreTrainedModel:
    """The model, once it is known to have all tokens of its processor."""
    check_tokens(folder, model, processor)
    return model


def save_resized(folder: str, size: int, target: Path, incomplete: bool = False) -> None:
    """Save a checkpoint for images of another size."""
    config, processor = checkpoint_config(folder), load_processor(folder)
    dtype = config.dtype if config.dtype in TRAINED.values() else TRAINED["float32"]
    model = load_answering(folder, incomplete=incomplete, dtype=dtype)
    set_resolution(model, processor, size)
    processor.save_pretrained(target)
    model.save_pretrained(target)
