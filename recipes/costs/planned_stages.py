"""Which stage a command line is of, by the keys of its options, and which stages have a plan of their costs."""

import yaml

from openpali.data.files.config import ConfigError, find_config
from openpali.recipes import (
    captioner,
    classification,
    contrastive,
    denoise,
    dense,
    mask_vqvae,
    pretrain,
    reward,
    siglip2,
    transfer,
)
from openpali.recipes.run.command_line import known_keys, take_option
from openpali.recipes.stages.pretrain_learning_rate import StageArguments
from openpali.recipes.stages.pretrain_start import StartArguments

RECIPES: dict[str, list[type]] = {
    "transfer": transfer.CLASSES,
    "pretrain": [pretrain.PretrainArguments, StartArguments, StageArguments],
    "contrastive": [contrastive.ContrastiveArguments, contrastive.ContrastiveRun],
    "classification": [classification.ClassificationArguments, classification.ClassificationRun],
    "dense": [dense.DenseArguments, dense.DenseRun],
    "denoise": [denoise.DenoiseArguments, denoise.DenoiseRun],
}
WITHOUT_COSTS: dict[str, list[type]] = {
    "mask_vqvae": [mask_vqvae.MaskVQVAEArguments, mask_vqvae.MaskVQVAERun],
    "captioner": [captioner.CaptionerArguments, captioner.CaptionerRun],
    "siglip2": [siglip2.Siglip2Arguments, siglip2.Siglip2Run],
    "reward": reward.CLASSES,
}


def recipe_of(line: list[str]) -> str:
    """The stage that has all keys of a configuration and of the options behind it."""
    name, rest = take_option(line, "--config")
    keys = {word.lstrip("-").partition("=")[0].partition(".")[0] for word in rest if word.startswith("--")}
    if name:
        content = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
        keys |= set(content) if isinstance(content, dict) else set()
    every = RECIPES | WITHOUT_COSTS
    unknown = {recipe: len(keys - set(known_keys(classes))) for recipe, classes in every.items()}
    # the first of equal ones
    best = min(unknown, key=lambda recipe: unknown[recipe])
    if name and (best in WITHOUT_COSTS or unknown[best] > len(keys) / 2):
        raise ConfigError(f"{name} is no configuration of {', '.join(RECIPES)}: only these have costs to estimate")
    return best
