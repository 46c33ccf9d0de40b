"""Stage 0 of the text side: an encoder-decoder trained to restore corrupted texts, by UL2's mixture of denoisers.

    openpali denoise --config denoise/nano

The result is a T5 (or another encoder-decoder) with its tokenizer, which stock Transformers loads and
`Pali3ForConditionalGeneration.from_backbones` puts behind an image encoder. PaLI-3's is a 3B UL2 (section 3.1).
"""

import json
import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, set_seed

from openpali.data.files.config import ConfigError, as_dict
from openpali.data.sources import Source
from openpali.data.text.denoising_dataset import SpanCorruptionDataset, pad_collate
from openpali.data.text.sources import load_texts
from openpali.data.text.span_corruption import PREFIXES, SENTINEL, UL2, SpecialTokens, special_tokens
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.checkpoints import load_checkpoint
from openpali.modeling.configuration_pali3 import Pali3Config
from openpali.recipes.publishing.card import write_card
from openpali.recipes.run.arguments import RunArguments
from openpali.recipes.run.checkpoint_name import check_checkpoint
from openpali.recipes.run.command_line import command, parse
from openpali.recipes.run.datasets import report_bad_records, report_skipped, skip_log, split_source
from openpali.recipes.run.resume import open_run
from openpali.recipes.stages.denoise_loss import T5_LIKE, Mean, by_kind, denoising_scores, return_loss
from openpali.recipes.stages.vocabulary_rows import vocabulary_rows
from openpali.recipes.training.trainer import run_training


@dataclass
class DenoiseArguments:
    """Arguments of this stage alone."""

    texts: dict | str | None = field(default=None, metadata={"help": "builtin, files, jsonl, datasets, with options"})
    model: str | None = field(default=None, metadata={"help": "encoder-decoder to start from; new weights if unset"})
    preset: str = field(default="nano", metadata={"help": "size of PaLI-3 whose text model is trained"})
    text_config: dict | str | None = field(
        default=None, metadata={"help": "changes to the preset's; with another model_type, the whole configuration"}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "tokenizer to load instead of training one"})
    vocab_size: int = field(default=2048, metadata={"help": "tokens to train; 1153 special ones are added"})
    tokenizer_texts: int = field(default=2000, metadata={"help": "texts that the tokenizer is trained on"})
    sentinels: int = field(default=100, metadata={"help": "sentinel tokens; missing ones are added to the tokenizer"})
    sentinel: str = field(default=SENTINEL, metadata={"help": "pattern of the sentinels' names"})
    prefixes: dict | str | None = field(
        default=None, metadata={"help": "text before inputs of the denoisers R, X and S"}
    )
    weights: dict | str | None = field(
        default=None, metadata={"help": "denoiser: weight, as in {R-3-15: 1, S-25: 1}; equal if unset"}
    )
    max_length: int = field(default=512, metadata={"help": "tokens of an input, prefix and end token included"})
    packed: bool = field(default=False, metadata={"help": "fill inputs with several texts"})
    loss_mean: Mean = field(default="example", metadata={"help": "mean over examples, or over the tokens of a batch"})
    best_metric: str = field(default="negative_loss", metadata={"help": "or token_accuracy, S_token_accuracy, ..."})

    def __post_init__(self):
        self.texts = as_dict(self.texts, "texts") or {"name": "builtin", "split": "train"}
        self.text_config = as_dict(self.text_config, "text_config")
        self.prefixes = PREFIXES | as_dict(self.prefixes, "prefixes")
        self.weights = as_dict(self.weights, "weights")
        if unknown := set(self.prefixes) - set(PREFIXES):
            raise ConfigError(f"prefixes: there is no kind {unknown.pop()!r}; there are {', '.join(PREFIXES)}")


@dataclass
class DenoiseRun(RunArguments):
    """Nothing decays unless `weight_decay` says so."""

    decay: list[str] = field(
        default_factory=lambda: ["encoder", "decoder"], metadata={"help": "components whose matrices decay"}
    )


def make_texts(spec: dict[str, Any], run: RunArguments) -> dict[str, Source]:
    """Train and validation splits: those of a source with a `split` option, else some texts are held out."""

    def load(changes: dict[str, Any]) -> Source:
        try:
            return load_texts(spec | changes)
        except ValueError as error:
            raise ConfigError(f"texts: {error}") from error

    if "split" not in spec:
        return split_source(load({}), run)
    splits = {name: load({"split": name}) for name in (spec["split"], "validation")}
    for split in splits.values():
        report_bad_records(split, run)
    return {"train": splits[spec["split"]], "validation": splits["validation"]}


def make_tokenizer(args: DenoiseArguments, texts: Source) -> Any:
    """Load the tokenizer or train one, and add missing sentinels.

    A tokenizer trained here has the prefixes as single tokens; a loaded one splits them as other text.
    """
    if args.tokenizer or args.model:
        name = args.tokenizer or check_checkpoint(args.model, "model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"tokenizer: there is none at {name}: {' '.join(str(error).split())}") from error
    else:
        sample = [texts[i]["text"] for i in range(min(args.tokenizer_texts, len(texts)))]
        tokenizer = train_tokenizer(sample, args.vocab_size)
        tokenizer.add_tokens([text for text in as_dict(args.prefixes, "prefixes").values() if text])
    names = [args.sentinel.format(i) for i in range(args.sentinels)]
    tokenizer.add_tokens([name for name in names if name not in tokenizer.get_vocab()], special_tokens=True)
    return tokenizer


def make_config(args: DenoiseArguments, tokenizer: Any) -> Any:
    """Configuration of a new model."""
    return new_config(args.preset, as_dict(args.text_config, "text_config"), tokenizer, vocabulary_rows(tokenizer))


def make_model(args: DenoiseArguments, tokenizer: Any, incomplete: bool = False) -> Any:
    """The checkpoint to start from, or a new model, with an embedding for every token."""
    rows = vocabulary_rows(tokenizer)
    changes = as_dict(args.text_config, "text_config")
    if not args.model:
        return new_model(args.preset, changes, tokenizer, rows)
    if changes:
        raise ConfigError("text_config changes a new model: leave it out, or leave out model")
    folder = check_checkpoint(args.model, "model")
    model: Any = load_checkpoint(AutoModelForSeq2SeqLM, folder, incomplete=incomplete, dtype="float32")
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows)
    return model


def new_config(preset: str, changes: dict[str, Any], tokenizer: Any, rows: int) -> Any:
    """Configuration of an encoder-decoder: the preset's T5 with changes, or one of another `model_type`."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    known = Pali3Config.from_preset(preset).text_config
    kind = changes.get("model_type", known.model_type)
    fields = (known.to_dict() if kind == known.model_type else {}) | changes | ids | {"vocab_size": rows}
    fields.pop("model_type", None)
    if kind in T5_LIKE:
        fields |= {"decoder_start_token_id": tokenizer.pad_token_id}
    for part in ("encoder", "decoder"):
        inner: Any = fields.get(part)
        if isinstance(inner, dict):
            fields[part] = inner | ids | {"vocab_size": rows, "bos_token_id": start}
    return AutoConfig.for_model(kind, **fields)


def new_model(preset: str, changes: dict[str, Any], tokenizer: Any, rows: int) -> Any:
    """An encoder-decoder with random weights."""
    model = AutoModelForSeq2SeqLM.from_config(new_config(preset, changes, tokenizer, rows))
    kind = model.config.model_type
    if kind == "t5" and not model.config.scale_decoder_outputs:
        untie(model)
    return model


@torch.no_grad()
def untie(model: Any) -> None:
    """Give the model an LM head of its own, as in T5 v1.1.

    Transformers' T5 starts with a tied one, whose unscaled logits are far too large.
    """
    width = model.lm_head.in_features
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * width**-0.5)


def validation_examples(
    texts: Source, tokenizer: Any, special: SpecialTokens, args: DenoiseArguments, run: RunArguments
) -> dict[str, list[dict[str, Any]]]:
    """Validation examples: the same texts under each denoiser of the mixture."""
    names = [name for name, weight in mixture(args).items() if weight]
    count, found = max(1, run.eval_limit // len(names)), {}
    # texts far apart, since neighbours in a sorted file are similar
    starts = random.Random(0).sample(range(len(texts)), min(count, len(texts)))
    for name in names:
        data = SpanCorruptionDataset(
            texts, tokenizer, special, args.max_length, len(texts), {name: 1.0}, packed=args.packed, seed=run.seed
        )
        found[name] = [data[i] for i in starts]
    return found


def mixture(args: DenoiseArguments) -> dict[str, float]:
    """Weights of the denoisers by name."""
    return as_dict(args.weights, "weights") or {denoiser.name: 1.0 for denoiser in UL2}


@command
def main(argv: list[str] | None = None) -> None:
    """Train on texts, and report the scores of each denoiser."""
    args, run = parse([DenoiseArguments, DenoiseRun], argv)
    checkpoint = open_run(run, vars(args))

    splits = make_texts(as_dict(args.texts, "texts"), run)
    set_seed(run.seed)
    tokenizer = make_tokenizer(args, splits["train"])
    model = make_model(args, tokenizer, run.incomplete_checkpoint)
    if run.max_steps <= 0:
        run.max_steps = max(1, math.ceil(run.num_train_epochs * len(splits["train"]) / run.examples_per_step))
    examples = run.max_steps * run.examples_per_step
    try:
        special = special_tokens(tokenizer, as_dict(args.prefixes, "prefixes"), args.sentinel)
        train = SpanCorruptionDataset(
            splits["train"],
            tokenizer,
            special,
            args.max_length,
            examples,
            mixture(args),
            packed=args.packed,
            seed=run.seed,
            skip_log=skip_log(run),
        )
        scored = validation_examples(splits["validation"], tokenizer, special, args, run)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    collate = partial(pad_collate, pad_token_id=tokenizer.pad_token_id)
    texts = len(splits["train"])
    run.say(
        f"{texts:,} texts, {examples / texts:.3g} times each; {len(tokenizer):,} tokens, {args.max_length} an input"
    )

    def evaluate(model: PreTrainedModel) -> dict[str, float]:
        scores = by_kind(denoising_scores(model, scored, collate, run.per_device_eval_batch_size))
        return scores | {"loss": -scores["negative_loss"]}

    return_loss(model, args.loss_mean)
    run_training(model, tokenizer, run, train, collate, evaluate, args.best_metric, resume_from=checkpoint)
    report(model.eval(), scored, collate, run)
    write_card(run)
    report_skipped(run)
    run.say(f"Next, stage 1: Pali3ForConditionalGeneration.from_backbones(vision, text={str(run.folder)!r})")


def report(model: PreTrainedModel, scored: Any, collate: Any, run: RunArguments) -> None:
    """Print and save the trained model's scores under each denoiser."""
    if run.process_index:
        return
    scores = denoising_scores(model, scored, collate, run.per_device_eval_batch_size)
    for name, row in scores.items():
        run.say(f"{name:<8} loss {row['loss']:.3f}  token accuracy {row['token_accuracy']:.3f}")
    (run.folder / "metrics.json").write_text(json.dumps({"denoisers": scores} | by_kind(scores), indent=2) + "\n")


if __name__ == "__main__":
    main()
