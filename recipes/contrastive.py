"""Stage 0: an image encoder from images and texts, by SigLIP's sigmoid loss (PaLI-3 section 3.1).

    openpali contrastive --config pali3/nano-contrastive

The result is a `SiglipModel` with its processor, which stock Transformers loads; stage 1 takes its image encoder.
It starts from random weights (`preset`), from a trained image encoder (`vision_checkpoint`), or from a whole model
(`model`), to train it longer, at another resolution (`image_size`) or with another patch size (`patch_size`).

With `naflex` images keep their aspect ratio, as in SigLIP 2, and the result is a `Siglip2Model`; the number of image
tokens is drawn for each step from `sequence_lengths`. With `patch_sizes` the patch size is, as in FlexiViT.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import (
    PreTrainedModel,
    Siglip2Config,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipProcessor,
    SiglipVisionModel,
    set_seed,
)

from openpali.data.files.config import ConfigError, as_dict
from openpali.data.images.naflex import NaFlexImageProcessor
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.auto import load_processor
from openpali.modeling.checkpoints import load_config, load_tower, reading
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.contrastive_loss import INITIAL_LOGIT_BIAS, INITIAL_TEMPERATURE
from openpali.modeling.modeling_siglip import siglip_preset
from openpali.modeling.modeling_siglip2 import naflex_config
from openpali.modeling.processing_tokenizer import load_tokenizer
from openpali.modeling.resolution import set_image_size
from openpali.recipes.flexible.images import DrawnPatches, NaFlexImages, SquareImages, at_drawn_patch_size
from openpali.recipes.flexible.step_draw import StepDraw
from openpali.recipes.flexible.towers import (
    TWO_TOWERS,
    is_naflex,
    load_towers,
    naflex_image_processor,
    set_patches,
)
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import first_records, load_splits, make_dataset, make_task, report_skipped, skip_log
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.image_text_pairs import PairCollator, Pairs, retrieval_scores
from openpali.recipes.training.trainer import model_loss, run_training
from openpali.recipes.training.validation_loss import held_out_loss

TOWERS = ["vision_model", "text_model"]


@dataclass
class ContrastiveArguments:
    """Arguments of this stage alone."""

    source: dict | str | None = field(default=None, metadata={"help": "images: name and options"})
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "of the texts"})
    language_weights: dict | str | None = field(
        default=None, metadata={"help": "relative weight of a language, 1 by default, as in {en: 10}"}
    )
    texts: list[str] = field(
        default_factory=lambda: ["captions", "names"],
        metadata={"help": "kinds to draw from: captions of scenes, names of objects, keywords"},
    )
    texts_per_image: int = field(default=1, metadata={"help": "texts drawn for each image of a batch"})
    shared_texts: bool = field(
        default=True, metadata={"help": "a text is a positive of every image of the batch that it describes"}
    )
    model: str | None = field(default=None, metadata={"help": "SigLIP checkpoint to start from; new weights if unset"})
    vision_checkpoint: str | None = field(
        default=None,
        metadata={"help": "image encoder to start from; trains at a tenth of the learning rate, without decay"},
    )
    preset: str = field(
        default="nano", metadata={"help": "size of new towers: nano, s16, b16, l16, so400m14, g16, G14"}
    )
    vision_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    text_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    token_bottleneck: int | None = field(
        default=None, metadata={"help": "width of factorised token embeddings for a large vocabulary, 96 in the paper"}
    )
    image_size: int | None = field(default=None, metadata={"help": "in pixels; the checkpoint's if unset"})
    naflex: bool = field(
        default=False, metadata={"help": "keep the aspect ratio of images, as SigLIP 2 does; model may be square"}
    )
    sequence_lengths: list[int] = field(
        default_factory=list,
        metadata={"help": "with naflex: most image tokens, one drawn for each step; the tower's positions if empty"},
    )
    patch_size: int | None = field(default=None, metadata={"help": "of model, which is converted to it; in pixels"})
    patch_sizes: list[int] = field(
        default_factory=list, metadata={"help": "one drawn for each step, as in FlexiViT; in pixels"}
    )
    loss: Literal["sigmoid", "softmax"] = field(default="sigmoid", metadata={"help": "SigLIP's, or CLIP's"})
    loss_chunk_size: int | None = field(
        default=None, metadata={"help": "images whose logits are computed at a time; as many as fit in 16 MB if unset"}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer to load instead of training one"})
    vocab_size: int = field(default=1024, metadata={"help": "tokens to train; 1153 special ones are added"})
    tokenizer_records: int = field(default=300, metadata={"help": "records whose texts the tokenizer is trained on"})
    text_length: int | None = field(
        default=None,
        metadata={"help": "tokens of every text, padding included; the text tower's positions if unset"},
    )
    temperature: float = field(default=INITIAL_TEMPERATURE, metadata={"help": "exp(t') at the start"})
    logit_bias: float = field(default=INITIAL_LOGIT_BIAS, metadata={"help": "b at the start"})
    best_metric: str = field(default="recall_at_1", metadata={"help": "or naming_accuracy, image_to_text, ..."})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        for key in ("vision_config", "text_config", "language_weights"):
            setattr(self, key, as_dict(getattr(self, key), key))
        if self.model and (self.vision_checkpoint or self.token_bottleneck or self.vision_config or self.text_config):
            raise ConfigError(
                "model is a whole checkpoint with its own shape: vision_checkpoint, vision_config, text_config and"
                " token_bottleneck are for new towers"
            )
        if self.patch_size and not self.model:
            raise ConfigError("patch_size converts a model; new towers: --vision_config '{patch_size: 14}'")
        if self.naflex and (self.vision_checkpoint or self.image_size):
            raise ConfigError("naflex: leave out vision_checkpoint and image_size; give model, or sequence_lengths")

    @property
    def task(self) -> Pairs:
        """The task that draws texts."""
        weights = as_dict(self.language_weights, "language_weights")
        return Pairs(tuple(self.languages), tuple(self.texts), weights, self.texts_per_image)


@dataclass
class ContrastiveRun(RunArguments):
    """Defaults of SigLIP: a second-moment decay of 0.999 is unstable at large batches (section 4)."""

    adam_beta2: float = field(default=0.95, metadata={"help": "Adam's second-moment decay"})
    decay: list[str] = field(default_factory=lambda: TOWERS, metadata={"help": "components whose matrices decay"})


def make_tokenizer(args: ContrastiveArguments, source: Source) -> Any:
    """Load the tokenizer, or train one on the texts of this stage and of the tasks of later stages."""
    if args.tokenizer:
        with reading(args.tokenizer):
            tokenizer = load_tokenizer(args.tokenizer)
    else:
        tasks: list[Any] = [args.task]
        if source.name == "emoji":
            tasks += [make_task({"name": "ocr"})]
            tasks += [make_task({"name": name, "languages": args.languages}) for name in ("caption", "answer")]
            tasks += [make_task({"name": "detect", "language": language}) for language in args.languages]
        tokenizer = train_tokenizer(texts_of(source, tasks, args.tokenizer_records), args.vocab_size)
    # SigLIP has no attention mask: padding is attended to
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return tokenizer


def texts_of(source: Source, tasks: list[Any], records: int) -> Iterator[str]:
    """Prefixes and suffixes of several tasks on the first records of a source."""
    for index, record in enumerate(first_records(source, records)):
        for i, task in enumerate(tasks):
            example = task.example(record, random.Random(f"tokenizer-{index}-{i}"))
            if example is not None:
                yield from (example.prefix, example.suffix)


def make_config(args: ContrastiveArguments, tokenizer: Any) -> SiglipConfig | Siglip2Config:
    """Configuration of new towers: the preset, or the given image encoder, with the changes of the arguments."""
    try:
        size = siglip_preset(args.preset)
    except ValueError as error:
        raise ConfigError(f"preset: {error}") from error
    vision, text = size["vision_config"], size["text_config"]
    if args.vision_checkpoint:
        vision = vision_config_of(check_checkpoint(args.vision_checkpoint, "vision_checkpoint")).to_dict()
    vision |= as_dict(args.vision_config, "vision_config") | {"vision_use_head": True}
    text |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    if args.text_length:
        text["max_position_embeddings"] = args.text_length
    text |= {"projection_size": vision["hidden_size"]} | as_dict(args.text_config, "text_config")
    return naflex_config(vision, text) if args.naflex else SiglipConfig(vision_config=vision, text_config=text)


def make_model(args: ContrastiveArguments, tokenizer: Any, incomplete: bool = False) -> Any:
    """The model to train: the checkpoint, or new towers with the paper's t' and b, and the image encoder if given."""
    whole = check_checkpoint(args.model, "model") if args.model else None
    config: Any = load_config(whole) if whole else make_config(args, tokenizer)
    config.contrastive_loss, config.loss_chunk_size = args.loss, args.loss_chunk_size
    config.token_bottleneck = args.token_bottleneck
    if whole:
        model: Any = load_towers(whole, config, args.naflex, incomplete)
    else:
        model = TWO_TOWERS[config.model_type].from_towers(config, args.temperature, args.logit_bias)
    if args.vision_checkpoint:
        vision = load_tower(args.vision_checkpoint, SiglipVisionModel, model.vision_model.config, dtype="float32")
        model.vision_model.load_state_dict(vision.state_dict())
    set_patches(model, args.patch_size, args.patch_sizes, args.image_size)
    if is_naflex(model) and args.image_size:
        raise ConfigError("image_size: towers with NaFlex take images of any size; give sequence_lengths")
    if args.sequence_lengths and not is_naflex(model):
        raise ConfigError("sequence_lengths: these towers take square images; add --naflex true")
    if args.image_size:
        set_image_size(model, args.image_size)
    return model


def make_processor(args: ContrastiveArguments, model: Any, tokenizer: Any) -> SiglipProcessor:
    """The tokenizer, and images of the model's size, squashed to a square, or with NaFlex of any aspect ratio."""
    length = int(model.text_model.config.max_position_embeddings)
    tokenizer.model_max_length = min(args.text_length or length, length)
    stock = load_processor(args.model).image_processor if args.model else None
    if is_naflex(model):
        # not Siglip2Processor, which puts patches of 16 and 256 of them before the image processor's own settings
        return SiglipProcessor(naflex_image_processor(model, stock, args.sequence_lengths), tokenizer)
    side = int(model.vision_model.config.image_size)
    processor = stock if stock is not None else SiglipImageProcessorPil()
    processor.size = {"height": side, "width": side}
    return SiglipProcessor(processor, tokenizer)


def make_images(args: ContrastiveArguments, processor: SiglipProcessor, seed: int) -> Any:
    """What makes inputs of images: squares, squares with a drawn patch size, or sequences of a drawn length."""
    own: Any = processor.image_processor
    if isinstance(own, NaFlexImageProcessor):
        return NaFlexImages(
            own, StepDraw("sequence_lengths", tuple(args.sequence_lengths) or (own.max_num_patches,), seed)
        )
    if args.patch_sizes:
        return DrawnPatches(own, StepDraw("patch_sizes", tuple(args.patch_sizes), seed))
    return SquareImages(own)


def adjust(args: ContrastiveArguments, run: ContrastiveRun) -> None:
    """Set optimizer options: a trained image encoder learns slowly without decay; CLIP's loss has no bias to train."""
    if args.vision_checkpoint:
        multipliers = as_dict(run.lr_multipliers, "lr_multipliers")
        run.lr_multipliers = {"vision_model": 0.1} | multipliers
        if run.decay == TOWERS:
            run.decay = ["text_model"]
    if args.loss == "softmax" and "logit_bias" not in run.freeze:
        run.freeze = [*run.freeze, "logit_bias"]


@command
def main(argv: list[str] | None = None) -> None:
    """Train an image and a text tower, new ones or those of a checkpoint."""
    args, run = parse([ContrastiveArguments, ContrastiveRun], argv)
    checkpoint = open_run(run, vars(args))
    adjust(args, run)

    splits = load_splits(as_dict(args.source, "source"), run)
    train = make_dataset(splits["train"], args.task, run)
    validation = TaskDataset(splits["validation"], args.task, run.seed, skip_log(run), split="validation")

    set_seed(run.seed)
    loaded = load_processor(check_checkpoint(args.model, "model")) if args.model else None
    tokenizer = loaded.tokenizer if loaded else make_tokenizer(args, splits["train"])
    model = make_model(args, tokenizer, run.incomplete_checkpoint)
    processor = make_processor(args, model, tokenizer)
    images = make_images(args, processor, run.seed)
    collator = PairCollator(processor, tokenizer.model_max_length, args.shared_texts, images)
    held_out = [validation[i] for i in range(min(run.eval_limit, len(validation)))]

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        batch = run.per_device_eval_batch_size
        loss = held_out_loss(model, held_out, collator, batch)
        return retrieval_scores(model, collator, held_out, batch) | {"loss": loss}

    loss = at_drawn_patch_size(model_loss)
    run_training(model, processor, run, train, collator, evaluate, args.best_metric, loss, checkpoint)
    if run.process_index == 0:
        model.stock().save_pretrained(run.folder)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: openpali pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
