"""Stage 0: an image encoder from captions, by a text decoder on its tokens (CapPa, arXiv 2306.07915).

    openpali captioner --config captioner/nano
    openpali captioner --config captioner/nano-located

A text is predicted token by token, or in parallel from the image alone, drawn anew for each example. With
`location_tasks` the same decoder also writes the box of an expression and the text of a box (LocCa, arXiv 2403.19596).

The result is a `Captioner` with its processor, which stage 1, `openpali contrastive` and `openpali encoders` take as
it is. `encoder/` in its folder is the image encoder alone, a stock `SiglipVisionModel` without pooling head.
"""

from dataclasses import dataclass, field, fields
from typing import Any, cast

from transformers import (
    PreTrainedModel,
    SiglipImageProcessorPil,
    SiglipProcessor,
    SiglipVisionModel,
    set_seed,
)

from openpali.data.example import Example
from openpali.data.files.config import ConfigError, as_dict
from openpali.data.sources import Source
from openpali.data.tasks import Task
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.auto import load_processor
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig, CaptionerConfig
from openpali.modeling.captioner.modeling_captioner import Captioner
from openpali.modeling.checkpoints import check_kind, load_checkpoint, load_tower, reading
from openpali.modeling.configuration_pali3 import vision_config_of
from openpali.modeling.modeling_siglip import siglip_preset
from openpali.modeling.processing_tokenizer import LOCATION_TOKENS, load_tokenizer
from openpali.modeling.resolution import set_image_size
from openpali.recipes.captioning.batches import CAUSAL, CaptionCollator, CaptionInputs, DrawnTask, Modes
from openpali.recipes.captioning.scores import box_accuracy, naming_accuracy, validation_scores
from openpali.recipes.captioning.tasks import (
    CAPTION_PROMPT,
    check_shares,
    held_out_examples,
    location_task,
    mixed,
    report_cut,
)
from openpali.recipes.contrastive import texts_of
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import load_splits, make_dataset, make_task, report_skipped
from openpali.recipes.run.resume import open_run
from openpali.recipes.run.run_folder import ENCODER_FOLDER
from openpali.recipes.stages.image_text_pairs import Pairs
from openpali.recipes.stages.mixture_log import EntryCollator, MixtureLog, log_mixture
from openpali.recipes.training.trainer import model_loss, run_training

NEW_DECODER = ("decoder_layers", "decoder_width", "decoder_heads", "decoder_mlp", "decoder_bias", "tokenizer")


@dataclass
class CaptionerArguments:
    """Arguments of this stage alone."""

    source: dict | str | None = field(default=None, metadata={"help": "images: name and options"})
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "of the texts"})
    language_weights: dict | str | None = field(
        default=None, metadata={"help": "relative weight of a language, 1 by default, as in {en: 10}"}
    )
    texts: list[str] = field(
        default_factory=lambda: ["captions"], metadata={"help": "kinds to draw from: captions, names, keywords"}
    )
    location_tasks: dict | str | None = field(
        default=None,
        metadata={"help": "shares, as in {caption: 2, refer: 1, grounded_caption: 1}; captions alone if unset"},
    )
    model: str | None = field(default=None, metadata={"help": "captioner to start from; new weights if unset"})
    vision_checkpoint: str | None = field(
        default=None, metadata={"help": "image encoder to start from; trains at a tenth of the learning rate"}
    )
    preset: str = field(default="nano", metadata={"help": "size of a new encoder: nano, s16, b16, l16, so400m14, ..."})
    vision_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    image_size: int | None = field(default=None, metadata={"help": "in pixels; the checkpoint's if unset"})
    decoder_layers: int = field(default=6, metadata={"help": "of a new decoder; as many as the encoder's at 0"})
    decoder_width: int = field(default=0, metadata={"help": "of a new decoder; the encoder's at 0"})
    decoder_heads: int = field(default=0, metadata={"help": "of a new decoder; the encoder's at 0"})
    decoder_mlp: int = field(default=0, metadata={"help": "width of its MLPs; the encoder's at 0"})
    decoder_bias: bool = field(default=False, metadata={"help": "biases in norms and MLPs of its layers"})
    decoder_dropout: float = field(default=0.0, metadata={"help": "of attention weights, attentions and MLPs"})
    masked_pred_prob: float = field(
        default=0.75, metadata={"help": "share of texts that are predicted in parallel; 0 for a plain captioner (Cap)"}
    )
    masking_ratio: float = field(
        default=1.0, metadata={"help": "share of the inputs that are masked in parallel prediction"}
    )
    located_masked_pred_prob: float = field(
        default=0.0, metadata={"help": "masked_pred_prob of the tasks refer and grounded_caption"}
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "label smoothing of the training loss"})
    text_length: int | None = field(
        default=None, metadata={"help": "tokens of every text, padding included; 64 for a new decoder if unset"}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer to load instead of training one"})
    vocab_size: int = field(default=1024, metadata={"help": "tokens to train; 1153 special ones are added"})
    tokenizer_records: int = field(default=300, metadata={"help": "records whose texts the tokenizer is trained on"})
    scored_images: int = field(
        default=64, metadata={"help": "validation images that are named, and whose boxes are found, at an evaluation"}
    )
    best_metric: str = field(default="log_likelihood", metadata={"help": "or image_gain, naming_accuracy, ..."})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        for key in ("vision_config", "language_weights", "location_tasks"):
            setattr(self, key, as_dict(getattr(self, key), key))
        self.shares = check_shares(as_dict(self.location_tasks, "location_tasks"))
        if self.shares and self.texts != ["captions"]:
            raise ConfigError("texts: with location_tasks a caption is the image's; leave texts out")
        changed = [
            one.name for one in fields(self) if one.name in NEW_DECODER and getattr(self, one.name) != one.default
        ]
        if self.model and (self.vision_checkpoint or self.vision_config or changed):
            raise ConfigError(
                f"model is a whole captioner with its own shape: {', '.join(changed) or 'vision_checkpoint'} is for a"
                " new one"
            )

    @property
    def modes(self) -> Modes:
        """How texts are predicted; captions without location tasks have no prompt."""
        return Modes(self.masked_pred_prob, self.masking_ratio, self.located_masked_pred_prob)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name: captions alone, or those with a share."""
        if self.shares:
            return {name: location_task(name, self.languages) for name in self.shares}
        weights = as_dict(self.language_weights, "language_weights")
        return {"caption": cast(Task, Pairs(tuple(self.languages), tuple(self.texts), weights))}


@dataclass
class CaptionerRun(RunArguments):
    """Defaults of contrastive training, so that encoders of both can be compared."""

    adam_beta2: float = field(default=0.95, metadata={"help": "Adam's second-moment decay"})
    decay: list[str] = field(
        default_factory=lambda: ["vision_model", "decoder"], metadata={"help": "components whose matrices decay"}
    )


def make_tokenizer(args: CaptionerArguments, source: Source) -> Any:
    """Load the tokenizer, or train one on the texts of this stage and of the tasks of later stages.

    Raises:
        ConfigError: the tokenizer has no end token, or no padding of its own.
    """
    if args.tokenizer:
        with reading(args.tokenizer):
            tokenizer: Any = load_tokenizer(args.tokenizer)
    else:
        tasks: list[Any] = [*args.tasks.values()]
        if source.name == "emoji":
            tasks += [make_task({"name": name, "languages": args.languages}) for name in ("caption", "answer")]
        tokenizer = train_tokenizer(texts_of(source, tasks, args.tokenizer_records), args.vocab_size)
    if args.shares:
        # only those that it lacks
        tokenizer.add_tokens(LOCATION_TOKENS)
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer: {args.tokenizer} has no end token: give one that has, such as SigLIP's")
    return tokenizer


def padding_of(tokenizer: Any) -> int:
    """Id of padding, which is never predicted: the tokenizer's, or the `<pad>` of SigLIP's, which pads with its end.

    Raises:
        ConfigError: there is none.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and pad != tokenizer.eos_token_id:
        return int(pad)
    if tokenizer.convert_ids_to_tokens(0) == "<pad>":
        return 0
    raise ConfigError("tokenizer: it has no padding token of its own, and padding is not to be predicted; add one")


def make_config(args: CaptionerArguments, tokenizer: Any) -> CaptionerConfig:
    """Configuration of a new captioner: the preset or the given image encoder, and a decoder as wide."""
    try:
        vision = siglip_preset(args.preset)["vision_config"]
    except ValueError as error:
        raise ConfigError(f"preset: {error}") from error
    if args.vision_checkpoint:
        vision = vision_config_of(check_checkpoint(args.vision_checkpoint, "vision_checkpoint")).to_dict()
    vision |= as_dict(args.vision_config, "vision_config")
    same = {"hidden_size": args.decoder_width, "num_attention_heads": args.decoder_heads}
    same |= {"intermediate_size": args.decoder_mlp, "num_hidden_layers": args.decoder_layers}
    decoder: dict[str, Any] = {key: value or vision[key] for key, value in same.items()}
    decoder |= {"vocab_size": len(tokenizer), "encoder_hidden_size": vision["hidden_size"]}
    decoder |= {"max_position_embeddings": args.text_length or 64, "use_bias": args.decoder_bias}
    decoder |= {"mask_token": args.modes.needs_mask, "pad_token_id": padding_of(tokenizer)}
    try:
        decoder_config = CaptionDecoderConfig(**decoder, eos_token_id=tokenizer.eos_token_id)
    except ValueError as error:
        raise ConfigError(f"decoder_width, decoder_heads: {error}") from error
    return CaptionerConfig(vision_config=vision, decoder_config=decoder_config)


def make_model(args: CaptionerArguments, tokenizer: Any, incomplete: bool = False) -> Captioner:
    """The model to train: the checkpoint, or a new one, with the image encoder if given."""
    if args.model:
        check_kind(args.model, Captioner)
        model: Any = load_checkpoint(Captioner, args.model, dtype="float32", incomplete=incomplete)
    else:
        model = Captioner(make_config(args, tokenizer))
    if args.vision_checkpoint:
        vision = load_tower(args.vision_checkpoint, SiglipVisionModel, model.vision_model.config, dtype="float32")
        model.vision_model.load_state_dict(vision.state_dict())
    if args.image_size:
        set_image_size(model, args.image_size)
    unknown = [token for token in LOCATION_TOKENS if token not in tokenizer.get_vocab()]
    if args.shares and unknown:
        raise ConfigError(f"location_tasks: the tokenizer of {args.model} has no {unknown[0]}: train a new captioner")
    model.config.caption_prompt = CAPTION_PROMPT if args.shares else ""
    config = model.decoder.config
    config.label_smoothing, config.dropout = args.label_smoothing, args.decoder_dropout
    return model


def make_processor(args: CaptionerArguments, model: Captioner, tokenizer: Any) -> SiglipProcessor:
    """Images of the model's size, squashed to a square, and the tokenizer."""
    side = int(cast(int, model.vision_model.config.image_size))
    images = load_processor(args.model).image_processor if args.model else SiglipImageProcessorPil()
    images.size = {"height": side, "width": side}
    tokenizer.model_max_length = int(args.text_length or model.decoder.config.max_position_embeddings)
    return SiglipProcessor(images, tokenizer)


def scores_of(
    model: PreTrainedModel,
    args: CaptionerArguments,
    held_out: dict[str, list[Example]],
    collator: CaptionCollator,
    batch: int,
) -> dict[str, float]:
    """All validation scores."""
    assert isinstance(model, Captioner)
    scores = validation_scores(model, held_out, collator, batch)
    few = {name: examples[: args.scored_images] for name, examples in held_out.items()}
    if "caption" in few and not args.shares:
        scores |= naming_accuracy(model, few["caption"], collator, batch)
    if "refer" in few:
        scores |= box_accuracy(model, args.tasks["refer"], few["refer"], collator)
    return scores


@command
def main(argv: list[str] | None = None) -> None:
    """Train an image encoder and the decoder that writes about its images."""
    args, run = parse([CaptionerArguments, CaptionerRun], argv)
    checkpoint = open_run(run, vars(args))
    if args.vision_checkpoint:
        run.lr_multipliers = {"vision_model": 0.1} | as_dict(run.lr_multipliers, "lr_multipliers")

    splits = load_splits(as_dict(args.source, "source"), run)
    tasks: dict[str, Task] = args.tasks
    held_out = held_out_examples(tasks, splits["validation"], run)
    log = None
    if args.shares:
        train = mixed(tasks, args.shares, splits["train"], run)
        log_mixture(train.table(), run)
        log = MixtureLog(train.table(), run)
    else:
        train = make_dataset(splits["train"], DrawnTask(tasks["caption"]), run)

    set_seed(run.seed)
    loaded = load_processor(check_checkpoint(args.model, "model")) if args.model else None
    tokenizer = loaded.tokenizer if loaded else make_tokenizer(args, splits["train"])
    model = make_model(args, tokenizer, run.incomplete_checkpoint)
    processor = make_processor(args, model, tokenizer)
    images, config, length = processor.image_processor, model.decoder.config, tokenizer.model_max_length
    collator: Any = CaptionCollator(images, CaptionInputs(tokenizer, config, args.modes, length))
    causal = CaptionCollator(images, CaptionInputs(tokenizer, config, CAUSAL, length))
    report_cut(causal.inputs, [example for examples in held_out.values() for example in examples], run)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        return scores_of(model, args, held_out, causal, run.per_device_eval_batch_size)

    run_training(
        model,
        processor,
        run,
        train,
        EntryCollator(collator) if log else collator,
        evaluate,
        args.best_metric,
        log.loss if log else model_loss,
        resume_from=checkpoint,
        callbacks=[log] if log else [],
    )
    if log:
        log.report()
    if run.process_index == 0:
        model.encoder().save_pretrained(run.folder / ENCODER_FOLDER)
        images.save_pretrained(run.folder / ENCODER_FOLDER)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: openpali pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
