"""Stage 0: an image encoder from pictures and texts, by SigLIP's sigmoid loss (PaLI-3 section 3.1).

    python -m openpali.recipes.contrastive --config recipes/configs/pali3/nano-contrastive.yaml

The result is a `SiglipModel` with its processor, which stock Transformers loads; stage 1 takes its image encoder.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    set_seed,
)

from openpali.data.mixture import TaskDataset
from openpali.data.sources import Source
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.configuration_pali3 import Pali3Config
from openpali.modeling.contrastive_loss import (
    INITIAL_LOGIT_BIAS,
    INITIAL_TEMPERATURE,
    initialize_logits,
    sigmoid_loss,
)
from openpali.recipes.arguments import RunArguments, command, parse
from openpali.recipes.config_file import as_dict
from openpali.recipes.pairs import PairCollator, Pairs, retrieval_scores
from openpali.recipes.run_data import make_task, skip_log, splits, tell_skipped
from openpali.recipes.run_folder import open_run
from openpali.recipes.trainer import run_training


@dataclass
class ContrastiveArguments:
    """What is particular to stage 0."""

    source: dict | str | None = field(default=None, metadata={"help": "pictures: name and options"})
    languages: list[str] = field(default_factory=lambda: ["en"], metadata={"help": "of the texts"})
    texts: list[str] = field(
        default_factory=lambda: ["captions", "names"], metadata={"help": "captions of scenes, names of objects"}
    )
    model: str | None = field(default=None, metadata={"help": "SigLIP checkpoint to start from, not from nothing"})
    preset: str = field(default="nano", metadata={"help": "size of PaLI-3 whose image encoder is trained"})
    vision_config: dict | str | None = field(default=None, metadata={"help": "changes to the preset's"})
    text_config: dict | str | None = field(default=None, metadata={"help": "of the text tower"})
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer to load instead of training one"})
    vocab_size: int = field(default=1024, metadata={"help": "tokens to learn; 1153 special ones come on top"})
    tokenizer_records: int = field(default=300, metadata={"help": "records whose texts the tokenizer learns from"})
    text_length: int = field(default=16, metadata={"help": "tokens of every text, padding included"})
    temperature: float = field(default=INITIAL_TEMPERATURE, metadata={"help": "exp(t') at the start"})
    logit_bias: float = field(default=INITIAL_LOGIT_BIAS, metadata={"help": "b at the start"})
    best_metric: str = field(default="recall_at_1", metadata={"help": "or naming_accuracy, image_to_text, ..."})

    def __post_init__(self):
        self.source = as_dict(self.source, "source") or {"name": "emoji", "split": "train"}
        self.vision_config = as_dict(self.vision_config, "vision_config")
        self.text_config = as_dict(self.text_config, "text_config")


@dataclass
class ContrastiveRun(RunArguments):
    """Defaults of SigLIP: a second-moment decay of 0.999 is unstable at large batches (section 4)."""

    adam_beta2: float = field(default=0.95, metadata={"help": "Adam's second-moment decay"})
    decay: list[str] = field(
        default_factory=lambda: ["vision_model", "text_model"],
        metadata={"help": "components whose matrices decay"},
    )


def contrastive_loss(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sigmoid loss of a batch of `PairCollator`; with accumulation each micro-batch has its own negatives."""
    outputs = model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"])
    # wrapped by DDP the model is one attribute further down
    siglip = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    embeds = outputs.image_embeds, outputs.text_embeds
    return sigmoid_loss(*embeds, siglip.logit_scale, siglip.logit_bias, inputs["positives"])  # pyright: ignore


def make_tokenizer(args: ContrastiveArguments, source: Source) -> Any:
    """Load the tokenizer, or train one on the texts of this stage and on prompts and answers of the next ones."""
    if args.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    else:
        tasks = [Pairs(tuple(args.languages), tuple(args.texts))]
        if source.name == "emoji":
            tasks += [make_task({"name": "ocr"})]
            tasks += [make_task({"name": name, "languages": args.languages}) for name in ("caption", "answer")]
            tasks += [make_task({"name": "detect", "language": language}) for language in args.languages]
        tokenizer = train_tokenizer(texts_of(source, tasks, args.tokenizer_records), args.vocab_size)
    tokenizer.model_max_length = args.text_length
    # SigLIP has no attention mask: padding is attended to
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids"]
    return tokenizer


def texts_of(source: Source, tasks: list[Any], records: int) -> Iterator[str]:
    """Prefixes and suffixes of several tasks on the first records of a source."""
    for index in range(min(records, len(source))):
        record = source[index]
        for i, task in enumerate(tasks):
            example = task.example(record, random.Random(f"tokenizer-{index}-{i}"))
            if example is not None:
                yield from (example.prefix, example.suffix)


def make_model(args: ContrastiveArguments, tokenizer: Any) -> SiglipModel:
    """The checkpoint to start from, or two new towers with the paper's t' and b."""
    if args.model:
        return SiglipModel.from_pretrained(args.model)
    preset = Pali3Config.from_preset(args.preset).vision_config
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = preset.to_dict() | {"vision_use_head": True} | as_dict(args.vision_config, "vision_config")
    text = {key: vision[key] for key in shape} | {"projection_size": vision["hidden_size"]}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": args.text_length}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    text |= as_dict(args.text_config, "text_config")
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    initialize_logits(model.logit_scale, model.logit_bias, args.temperature, args.logit_bias)
    return model


def make_processor(model: SiglipModel, tokenizer: Any) -> SiglipProcessor:
    """Pictures of the model's size, squashed to a square, and the tokenizer."""
    side = int(cast(int, model.vision_model.config.image_size))
    return SiglipProcessor(SiglipImageProcessorPil(size={"height": side, "width": side}), tokenizer)


@command
def main(argv: list[str] | None = None) -> None:
    """Train an image and a text tower from nothing, or go on from a checkpoint."""
    args, run = parse([ContrastiveArguments, ContrastiveRun], argv)
    checkpoint = open_run(run)

    parts = splits(as_dict(args.source, "source"), run)
    pairs = Pairs(tuple(args.languages), tuple(args.texts))
    train = TaskDataset(parts["train"], pairs, run.seed, skip_log(run))
    validation = TaskDataset(parts["validation"], pairs, run.seed, skip_log(run))

    set_seed(run.seed)
    if args.model:
        processor = AutoProcessor.from_pretrained(args.model)
        model = make_model(args, processor.tokenizer)
    else:
        tokenizer = make_tokenizer(args, parts["train"])
        model = make_model(args, tokenizer)
        processor = make_processor(model, tokenizer)
    collator = PairCollator(processor, args.text_length)
    held_out = [validation[i] for i in range(min(run.eval_limit, len(validation)))]

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        assert isinstance(model, SiglipModel)
        return retrieval_scores(model, collator, held_out, run.per_device_eval_batch_size)

    run_training(model, processor, run, train, collator, evaluate, args.best_metric, contrastive_loss, checkpoint)
    tell_skipped(run)
    run.say(f"Next, stage 1: openpali.recipes.pretrain with --vision_checkpoint {run.folder}")


if __name__ == "__main__":
    main()
