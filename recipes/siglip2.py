"""Stage 0: an image encoder from images and texts, by the losses of SigLIP 2 (arXiv 2502.14786).

    openpali siglip2 --config siglip2/nano

- from the start: SigLIP's sigmoid loss, and a decoder that writes captions, boxes and texts of boxes from the image
  tokens (LocCa, arXiv 2403.19596);
- in the last steps (`late_share`): self-distillation on further views of each image. Local views match what a teacher,
  an average of the encoder's earlier weights, has of a global view (SILC, arXiv 2310.13355), and masked patches match
  the teacher's of the same view (TIPS, arXiv 2410.16512). The image-text losses go on with plain images.

The authors' training code is not public. What this recipe does by default where the papers were not at hand is marked
in docs/encoders.md.

The result is a `SiglipModel` with its processor, which stock Transformers loads; stage 1 takes its image encoder.
Checkpoints and `best/` hold decoder, heads and teacher too. `model` takes any of them, to go on at another resolution
(`image_size`). NaFlex goes on from the result with `openpali contrastive --naflex true`.
"""

import itertools
import os
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, set_seed

from openpali.data.files.config import ConfigError, as_dict
from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.modeling.auto import load_processor
from openpali.modeling.captioner.configuration_captioner import CaptionDecoderConfig
from openpali.modeling.checkpoints import load_checkpoint, load_config
from openpali.modeling.flexible_patches import set_patch_size
from openpali.modeling.resolution import set_image_size
from openpali.modeling.self_distillation.configuration_siglip_pretraining import SiglipPretrainingConfig
from openpali.modeling.self_distillation.modeling_siglip_pretraining import SiglipForPretraining
from openpali.recipes import contrastive
from openpali.recipes.captioner import padding_of
from openpali.recipes.captioning.batches import CAUSAL, CaptionInputs, Modes
from openpali.recipes.captioning.tasks import check_shares, location_task, report_cut
from openpali.recipes.contrastive import ContrastiveArguments, ContrastiveRun
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import first_records, load_splits, make_dataset, report_skipped, skip_log
from openpali.recipes.run.resume import open_run
from openpali.recipes.self_distillation.batches import (
    CAPTION,
    LatePhase,
    PretrainingCollator,
    WrittenPairs,
    decoder_example,
)
from openpali.recipes.self_distillation.between_steps import LossParts, TeacherUpdates, held_out_parts
from openpali.recipes.self_distillation.decoder_tokenizer import lower_cased, with_locations
from openpali.recipes.self_distillation.views import ViewOptions, Views
from openpali.recipes.stages.image_text_pairs import PairCollator, retrieval_scores
from openpali.recipes.training.trainer import run_training, set_max_steps

DECAY = ["vision_model", "text_model", "decoder", "heads"]
# of the sides of an image, as in DINO: 96 of 256 pixels
LOCAL_SIDE = 3 / 8
RECORDS_WITH_BOXES = 100


@dataclass
class Siglip2Arguments(ContrastiveArguments):
    """Arguments of this stage alone, beside those of contrastive training."""

    lower_case: bool = field(
        default=True, metadata={"help": "the tokenizer lower-cases texts, and so does the result's"}
    )
    location_tasks: dict | str | None = field(
        default=None,
        metadata={"help": "shares of the decoder's tasks; {caption: 2, refer: 1, grounded_caption: 1} if unset"},
    )
    caption_weight: float = field(default=1.0, metadata={"help": "of the decoder's loss"})
    decoder_layers: int = field(default=6, metadata={"help": "of a new decoder, as wide as the encoder; 0: as deep"})
    decoder_config: dict | str | None = field(default=None, metadata={"help": "changes to a new decoder"})
    masked_pred_prob: float = field(default=0.5, metadata={"help": "share of captions that are predicted in parallel"})
    masking_ratio: float = field(
        default=1.0, metadata={"help": "share of the inputs that are masked in parallel prediction"}
    )
    located_masked_pred_prob: float = field(
        default=0.0, metadata={"help": "masked_pred_prob of the tasks refer and grounded_caption"}
    )
    late_share: float = field(default=0.2, metadata={"help": "share of the steps, the last ones, with a teacher"})
    late_weight: float = field(default=1.0, metadata={"help": "factor on local_weight and masked_weight"})
    local_weight: float = field(default=1.0, metadata={"help": "of the loss between local views and the teacher"})
    masked_weight: float = field(default=0.25, metadata={"help": "of the loss of masked patches"})
    local_views: int = field(default=8, metadata={"help": "of each image"})
    local_view_size: int | None = field(
        default=None, metadata={"help": "in pixels; 3/8 of the image's, in whole patches, if unset"}
    )
    local_area: list[float] = field(
        default_factory=lambda: [0.05, 0.4], metadata={"help": "smallest and largest share of the image"}
    )
    global_area: list[float] = field(
        default_factory=lambda: [0.4, 1.0], metadata={"help": "smallest and largest share of the image"}
    )
    view_flip: float = field(
        default=0.0, metadata={"help": "probability of a mirrored view, where captions and words allow it"}
    )
    masked_share: float = field(default=0.5, metadata={"help": "of the patches, which the student does not see"})
    prototypes: int = field(default=65536, metadata={"help": "of each head; a checkpoint with heads keeps its own"})
    head_width: int = field(default=2048, metadata={"help": "inside the heads; a checkpoint with heads keeps its own"})
    head_bottleneck: int = field(
        default=256, metadata={"help": "of the heads' output; a checkpoint with heads keeps its own"}
    )
    student_temperature: float = field(default=0.1, metadata={"help": "of the student's similarities to prototypes"})
    teacher_temperature: float = field(default=0.04, metadata={"help": "of the teacher's, which are sharper"})
    center_momentum: float = field(default=0.9, metadata={"help": "of the mean that the teacher's are centred by"})
    ema_decay: float = field(default=0.996, metadata={"help": "of the teacher's moving average"})
    ema_decay_end: float | None = field(
        default=None, metadata={"help": "what ema_decay rises to along a cosine; it is fixed if unset"}
    )

    def __post_init__(self):
        super().__post_init__()
        self.location_tasks = as_dict(self.location_tasks, "location_tasks")
        self.decoder_config = as_dict(self.decoder_config, "decoder_config")
        self.shares = check_shares(self.location_tasks or {CAPTION: 2, "refer": 1, "grounded_caption": 1})
        if self.naflex or self.sequence_lengths or self.patch_sizes:
            raise ConfigError(
                "naflex, sequence_lengths, patch_sizes: this stage trains on squares with patches of one size; go on"
                " from its result with openpali contrastive --model"
            )

    @property
    def modes(self) -> Modes:
        """How the decoder predicts texts."""
        return Modes(self.masked_pred_prob, self.masking_ratio, self.located_masked_pred_prob)

    @property
    def written_pairs(self) -> WrittenPairs:
        """The task: pairs, with texts for the decoder."""
        located = {name: location_task(name, self.languages) for name in self.shares if name != CAPTION}
        return WrittenPairs(self.task, located, self.shares)


@dataclass
class Siglip2Run(ContrastiveRun):
    """Defaults of contrastive training; the teacher never trains."""

    decay: list[str] = field(default_factory=lambda: DECAY, metadata={"help": "components whose matrices decay"})
    # heads and mask get no gradient before the late phase
    ddp_find_unused_parameters: bool | None = field(default=True, metadata={"help": "leave at true"})


def adjust(args: Siglip2Arguments, run: Siglip2Run) -> None:
    """`contrastive.adjust`, and freeze the teacher, where there is one.

    Raises:
        ConfigError: an engine that shards weights, which the teacher could not follow.
    """
    engines = (f"ACCELERATE_USE_{engine}" for engine in ("FSDP", "DEEPSPEED"))
    if args.late_share and (run.deepspeed or any(os.environ.get(name, "").lower() == "true" for name in engines)):
        raise ConfigError("late_share: the teacher trains with DDP alone; leave the engine out, or give late_share: 0")
    contrastive.adjust(args, run)
    if args.vision_checkpoint and run.decay == DECAY:
        run.decay = DECAY[1:]
    if args.late_share and "teacher" not in run.freeze:
        run.freeze = [*run.freeze, "teacher"]


def make_decoder_config(args: Siglip2Arguments, siglip: Any, tokenizer: Any) -> CaptionDecoderConfig:
    """Configuration of a new decoder, as wide as the image encoder.

    Args:
        args: of the stage.
        siglip: the towers' configuration.
        tokenizer: of the decoder.
    """
    vision, same = siglip.vision_config, ("hidden_size", "intermediate_size", "num_attention_heads")
    known: dict[str, Any] = {key: getattr(vision, key) for key in same}
    known["num_hidden_layers"] = args.decoder_layers or vision.num_hidden_layers
    known |= {"vocab_size": len(tokenizer), "max_position_embeddings": siglip.text_config.max_position_embeddings}
    known |= {"pad_token_id": padding_of(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    try:
        return CaptionDecoderConfig(**known | as_dict(args.decoder_config, "decoder_config"))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"decoder_config: {error}") from error


def make_model(args: Siglip2Arguments, tokenizer: Any, written: Any, incomplete: bool = False) -> SiglipForPretraining:
    """The model to train: a checkpoint of this stage with all its parts, or a SigLIP or new towers with new parts.

    Args:
        args: of the stage.
        tokenizer: of the text tower.
        written: tokenizer of the decoder.
        incomplete: see `load_checkpoint`.
    """
    earlier = earlier_model(args, incomplete)
    towers = earlier.siglip if earlier else contrastive.make_model(args, tokenizer, incomplete)
    towers.config.contrastive_loss, towers.config.loss_chunk_size = args.loss, args.loss_chunk_size
    decoder = earlier.decoder.config if earlier else make_decoder_config(args, towers.config, written)
    heads: dict[str, Any] = {"head_hidden_size": args.head_width, "head_bottleneck_size": args.head_bottleneck}
    heads |= {"prototypes": args.prototypes}
    if earlier and earlier.config.distillation:
        heads = {key: getattr(earlier.config, key) for key in heads}
    model = SiglipForPretraining(
        SiglipPretrainingConfig(
            siglip_config=towers.config,
            decoder_config=decoder,
            distillation=args.late_share > 0,
            student_temperature=args.student_temperature,
            teacher_temperature=args.teacher_temperature,
            caption_weight=args.caption_weight,
            local_weight=args.local_weight * args.late_weight,
            masked_weight=args.masked_weight * args.late_weight,
            **heads,
        )
    )
    model.siglip.load_state_dict(towers.state_dict())
    if earlier:
        own = model.state_dict()
        model.load_state_dict(own | {key: weight for key, weight in earlier.state_dict().items() if key in own})
        resize(model, args)
    return model


def resize(model: SiglipForPretraining, args: Siglip2Arguments) -> None:
    """Change the patch size and the image size of student and teacher, where they are given."""
    try:
        if args.patch_size:
            set_patch_size(model, args.patch_size)
        if args.image_size:
            set_image_size(model, args.image_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def earlier_model(args: Siglip2Arguments, incomplete: bool) -> Any:
    """The model of a checkpoint of this stage that `model` names; None where it names a SigLIP, or nothing."""
    if not args.model or load_config(check_checkpoint(args.model, "model")).model_type != "siglip_pretraining":
        return None
    return load_checkpoint(SiglipForPretraining, args.model, dtype="float32", incomplete=incomplete)


def view_options(args: Siglip2Arguments, vision: Any) -> ViewOptions:
    """How views are drawn.

    Raises:
        ConfigError: local views of that size are not smaller than the image, or not of whole patches.
    """
    patch, grid = vision.patch_size, vision.image_size // vision.patch_size
    if grid < 3:
        raise ConfigError(
            f"late_share: an image of {vision.image_size} px is {grid} x {grid} patches, too few for local views;"
            " raise image_size, or give late_share: 0"
        )
    side = args.local_view_size or max(2, round(LOCAL_SIDE * grid)) * patch
    if side % patch or not patch < side < vision.image_size:
        raise ConfigError(
            f"local_view_size={side}: it is a multiple of the patch of {patch} px, from {2 * patch} px to less than"
            f" the image's {vision.image_size} px"
        )
    areas = tuple(args.global_area), tuple(args.local_area)
    return ViewOptions(args.local_views, side, *areas, args.view_flip, args.masked_share)  # pyright: ignore


def warnings(args: Siglip2Arguments, source: Source, options: ViewOptions | None, vision: Any) -> list[str]:
    """What will not work as intended, a line each."""
    found = []
    if set(args.shares) - {CAPTION}:
        records = itertools.islice(first_records(source, RECORDS_WITH_BOXES), RECORDS_WITH_BOXES)
        if not any(record.get("objects") for record in records):
            found.append(
                f"Warning: the first {RECORDS_WITH_BOXES} records have no boxes: the decoder learns captions alone"
                " (location_tasks: {caption: 1} says so)"
            )
    if options and options.local_size < 3 * vision.patch_size:
        side = options.local_size // vision.patch_size
        found.append(
            f"Warning: local views of {options.local_size} px are {side} x {side} patches, which show little; raise"
            " image_size or local_view_size"
        )
    return found


@command
def main(argv: list[str] | None = None) -> None:
    """Train an image and a text tower, with a decoder and a teacher that are left behind."""
    args, run = parse([Siglip2Arguments, Siglip2Run], argv)
    checkpoint = open_run(run, vars(args))
    adjust(args, run)

    splits = load_splits(as_dict(args.source, "source"), run)
    train = make_dataset(splits["train"], args.written_pairs, run)
    validation = TaskDataset(splits["validation"], args.written_pairs, run.seed, skip_log(run), split="validation")
    set_max_steps(run, train)
    phase = LatePhase.of(args.late_share, run.max_steps)

    set_seed(run.seed)
    loaded = load_processor(check_checkpoint(args.model, "model")) if args.model else None
    tokenizer = loaded.tokenizer if loaded else contrastive.make_tokenizer(args, splits["train"])
    tokenizer = lower_cased(tokenizer) if args.lower_case else tokenizer
    written = with_locations(tokenizer)
    model = make_model(args, tokenizer, written, run.incomplete_checkpoint)
    processor: Any = contrastive.make_processor(args, model.siglip, tokenizer)

    vision: Any = model.siglip.vision_model.config
    options = view_options(args, vision) if args.late_share else None
    for line in warnings(args, splits["train"], options, vision):
        run.say(line)
    views = Views(processor.image_processor, vision.patch_size, options) if options else None
    pairs, decoder = PairCollator(processor, tokenizer.model_max_length, args.shared_texts), model.decoder.config
    collator = PretrainingCollator(pairs, CaptionInputs(written, decoder, args.modes), views, phase)
    causal = PretrainingCollator(pairs, CaptionInputs(written, decoder, CAUSAL), None, phase)
    held_out = [validation[i] for i in range(min(run.eval_limit, len(validation)))]
    report_cut(causal.inputs, map(decoder_example, held_out), run)

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        assert isinstance(model, SiglipForPretraining)
        batch = run.per_device_eval_batch_size
        scores = retrieval_scores(model.siglip, pairs, held_out, batch)
        return scores | held_out_parts(model, held_out, causal, batch)

    parts = LossParts(run)
    decays = args.ema_decay, args.ema_decay_end, args.center_momentum
    callbacks = [TeacherUpdates(phase, run, *decays), parts] if args.late_share else [parts]
    more = (evaluate, args.best_metric, parts.loss, checkpoint, callbacks)
    run_training(model, processor, run, train, collator, *more)
    if run.process_index == 0:
        model.siglip.stock().save_pretrained(run.folder)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: openpali pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
