"""`python benchmarks/generation.py`: answers to questions about images, against Transformers' own generation.

    python benchmarks/generation.py --families paligemma --answers 64 --json benchmarks/results/generation.jsonl

Three ways answer the same questions about JPEG files, with the same weights in float32:

- `pipeline`: Transformers' image-text-to-text pipeline, one question at a time;
- `batches`: one call of the processor and one of `generate` for each batch, in the order of the questions;
- `openpali`: the path of `openpali eval` with batches of that size.

PaliGemma's peers are Transformers' class and processor. PaLI-3 has no class there, so its peers have ours. The answers
must be the same to the letter, which is checked. The image encoder is about half of the work of `batches`; its share
is printed. Weights are random, and a random model never says the one end token of its tokenizer: so tokens that it
does say are made end tokens of the generation configuration, until its answers to the questions have many different
lengths, and a third of the longest one on average. All ways have the same end tokens.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from data_pipeline import photograph
from PIL import Image
from train_step import cpu_seconds
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, pipeline
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.mixture import TaskDataset
from openpali.data.sources.jsonl import JsonlSource
from openpali.data.tasks.plain import Plain
from openpali.data.tokenizer import train_tokenizer
from openpali.eval.answering.predictions import answer_examples
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration as OurPaliGemma
from openpali.modeling.processing_paligemma import PaliGemmaProcessor as OurPaliGemmaProcessor

FAMILIES = ("pali3", "paligemma")
WAYS = ("pipeline", "batches", "openpali")
SIDE, PATCH, WIDTH = 224, 16, 256
LONGEST = 48
GOAL = 2.0
THINGS = ["dog", "cat", "bus", "tree", "house", "boat", "bird", "car"]
VISION: dict[str, Any] = {"model_type": "siglip_vision_model", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH}
VISION |= {"num_hidden_layers": 14, "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH}
VISION |= {"vision_use_head": False}
T5: dict[str, Any] = {"model_type": "t5", "d_model": WIDTH, "d_kv": 64, "d_ff": 2 * WIDTH, "num_heads": 4}
T5 |= {"num_layers": 4, "num_decoder_layers": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
GEMMA: dict[str, Any] = {"model_type": "gemma", "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH}
GEMMA |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64}
GEMMA |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


@dataclass
class Peers:
    """Our model and processor, and those that are compared with them; the weights are the same."""

    model: Any
    processor: Any
    stock_model: Any
    stock_processor: Any
    marker: str


def make_peers(family: str) -> Peers:
    """Random models of a family."""
    tokenizer = train_tokenizer(THINGS * 4, vocab_size=300)
    torch.manual_seed(0)
    images: Any = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    if family == "pali3":
        processor: Any = Pali3Processor(images, tokenizer, image_seq_length=images.image_seq_length)
        text = T5 | {"vocab_size": len(tokenizer)}
        config = Pali3Config(vision_config=VISION, text_config=text, image_token_id=processor.image_token_id)
        model: Any = enlivened(Pali3ForConditionalGeneration(config))
        return Peers(model, processor, model, processor, "")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    processor = OurPaliGemmaProcessor(images, tokenizer)
    text = GEMMA | {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    paligemma = PaliGemmaConfig(
        vision_config=VISION, text_config=text, image_token_id=processor.image_token_id, projection_dim=WIDTH
    )
    model = enlivened(OurPaliGemma(paligemma))
    stock: Any = PaliGemmaForConditionalGeneration(paligemma).eval()
    stock.load_state_dict(model.state_dict())
    return Peers(model, processor, stock, PaliGemmaProcessor(images, tokenizer), processor.image_token)


def enlivened(model: Any) -> Any:
    """Larger random weights of text model and projector, so that images and prompts count and answers differ.

    Still larger ones would enlarge the rounding of other batches as well, until answers differ by it.
    """
    gain, table = (1.5, 0.1) if model.config.is_encoder_decoder else (2.0, 0.05)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "vision_tower" not in name:
            tokens = parameter.shape[0] > 4 * WIDTH or "embed" in name or "shared" in name
            torch.nn.init.normal_(parameter, std=table if tokens else gain * parameter.shape[1] ** -0.5)
    return model.eval()


def write_data(folder: Path, images: int, questions: int) -> Path:
    """JPEG files of 640×480, and a JSONL file with several questions about each."""
    lines = []
    for number in range(images):
        photograph(folder / f"{number}.jpg", 640, 480, number)
        for i in range(questions):
            things = [THINGS[(i + k) % len(THINGS)] for k in range(1 + (3 * i + number) % 6)]
            prefix = f"answer en how many of {' and '.join(things)} are there?"
            lines.append(json.dumps({"image": f"{number}.jpg", "prefix": prefix, "suffix": "1"}))
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def read_records(data: Path) -> list[tuple[Path, str]]:
    """Image and question of each record."""
    records = [json.loads(line) for line in data.read_text().splitlines()]
    return [(data.parent / record["image"], record["prefix"]) for record in records]


def by_pipeline(peers: Peers, data: Path, batch: int) -> list[str]:
    """Answers of the pipeline, one by one."""
    ask = pipeline("image-text-to-text", model=peers.stock_model, processor=peers.stock_processor, device="cpu")
    options: dict[str, Any] = {"generate_kwargs": {"max_new_tokens": LONGEST, "do_sample": False}}
    texts = []
    for path, prompt in read_records(data):
        with torch.inference_mode():
            found: Any = ask(
                images=[Image.open(path).convert("RGB")], text=peers.marker + prompt, return_full_text=False, **options
            )
        texts.append(found[0]["generated_text"].strip())
    return texts


def by_batches(peers: Peers, data: Path, batch: int) -> list[str]:
    """Answers of Transformers' generation in batches."""
    records, texts = read_records(data), []
    side = "right" if peers.stock_model.config.is_encoder_decoder else "left"
    for start in range(0, len(records), batch):
        some = records[start : start + batch]
        images = [[Image.open(path).convert("RGB")] for path, _ in some]
        prompts = [peers.marker + prompt for _, prompt in some]
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": side}
        inputs = peers.stock_processor(images=images, text=prompts, **options)
        inputs.pop("labels", None)
        with torch.inference_mode():
            ids = peers.stock_model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        if side == "left":
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts += [text.strip() for text in peers.stock_processor.batch_decode(ids, skip_special_tokens=True)]
    return texts


def by_openpali(peers: Peers, data: Path, batch: int) -> list[str]:
    """Answers of openpali's evaluation."""
    dataset = TaskDataset(JsonlSource(data, check_decode=0), Plain(max_new_tokens=LONGEST))
    rows = answer_examples(peers.model, peers.processor, dataset, dataset.task, batch_size=batch, progress=False)
    return [row["text"] for row in rows]


RUNS: dict[str, Callable[[Peers, Path, int], list[str]]] = dict(zip(WAYS, (by_pipeline, by_batches, by_openpali)))


def choose_ends(peers: Peers, data: Path) -> list[int]:
    """Make tokens that the model says end tokens (see above); returns the lengths of the answers."""
    model, records = peers.model, read_records(data)
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    endless: list[list[int]] = []
    for path, prompt in records:
        image = Image.open(path).convert("RGB")
        inputs = peers.processor(images=[[image]], text=[prompt], return_tensors="pt")
        inputs.pop("labels", None)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        endless.append(ids[0, -LONGEST:].tolist())

    def lengths(ends: Sequence[int]) -> list[int]:
        return [min((row.index(one) + 1 for one in ends if one in row), default=LONGEST) for row in endless]

    said = sorted({token for row in endless for token in row[1:]} - {0})
    said, ends = said[:: max(1, len(said) // 50)], []
    while said and sum(lengths(ends)) > LONGEST / 3 * len(endless):
        # the next one leaves the most different lengths, and shortens the answers least
        ends.append(max(said, key=lambda one: (len(set(lengths([*ends, one]))), sum(lengths([*ends, one])), one)))
        said.remove(ends[-1])
    for one in (model, peers.stock_model):
        one.generation_config.update(eos_token_id=ends, pad_token_id=0)
    return lengths(ends)


@contextmanager
def encoder_time(model: Any) -> Iterator[list[float]]:
    """CPU seconds of each call of the image encoder, as a list that grows."""
    encoder, begins, spent = model.get_encoder(modality="image"), [], []
    hooks = [
        encoder.register_forward_pre_hook(lambda *parts: begins.append(cpu_seconds())),
        encoder.register_forward_hook(lambda *parts: spent.append(cpu_seconds() - begins[-1])),
    ]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def compare(family: str, questions: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a case.

    Raises:
        RuntimeError: if answers differ, so that the ways are not comparable.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), max(1, options.answers // questions), questions)
        peers = make_peers(family)
        lengths = choose_ends(peers, data)
        cpu, wall, texts, encoder = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0.0), {}, []
        for number in range(options.rounds):
            # the order alternates, since the CPU's caches favour the later way
            for way in WAYS if number % 2 else WAYS[::-1]:
                with encoder_time(peers.stock_model) as spent:
                    begin, used = time.perf_counter(), cpu_seconds()
                    texts[way] = RUNS[way](peers, data, options.batch)
                    wall[way] += time.perf_counter() - begin
                    cpu[way] += cpu_seconds() - used
                encoder += spent if way == "batches" else []
    for way in WAYS[1:]:
        different = [pair for pair in zip(texts[WAYS[0]], texts[way], strict=True) if pair[0] != pair[1]]
        if different:
            raise RuntimeError(f"{family}: {len(different)} answers of {way} differ, the first ones: {different[0]}")
    answers = len(lengths) * options.rounds
    return {
        "family": family,
        "questions_per_image": questions,
        "answers": len(lengths),
        "different_answers": len(set(texts["openpali"])),
        "tokens": [min(lengths), max(lengths), round(sum(lengths) / len(lengths), 1)],
        "encoder_share": round(sum(encoder) / cpu["batches"], 2),
        "answers_per_cpu_second": {way: round(answers / cpu[way], 2) for way in WAYS},
        "answers_per_second": {way: round(answers / wall[way], 2) for way in WAYS},
        "ratio_to_batches": round(cpu["batches"] / cpu["openpali"], 2),
        "ratio_to_pipeline": round(cpu["pipeline"] / cpu["openpali"], 2),
    }


def row(case: dict[str, Any]) -> str:
    """A line of the table."""
    per_cpu, (least, most, mean) = case["answers_per_cpu_second"], case["tokens"]
    cells = "".join(f"{per_cpu[way]:>10.2f}" for way in WAYS)
    ratios = f"{case['ratio_to_pipeline']:>10.2f}{case['ratio_to_batches']:>10.2f}"
    share = f"{case['encoder_share']:>9.0%}"
    return f"{case['family']:<10}{case['questions_per_image']:>9}{cells}{ratios}{share}   {least} to {most}, {mean}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--questions", nargs="*", type=int, default=[1, 8], help="about each image")
    parser.add_argument("--answers", type=int, default=32, help="of each way, in a round")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of torch, which wait for each other in small models")
    parser.add_argument("--json", type=Path, help="file that takes a line for each case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"answers per CPU second; batches of {options.batch}; {options.answers} answers, {options.rounds} rounds")
    titles = "".join(f"{way:>10}" for way in WAYS) + f"{'/pipeline':>10}{'/batches':>10}{'encoder':>9}"
    print(f"{'':<10}{'questions':>9}{titles}   tokens an answer", flush=True)
    for family in options.families:
        for questions in options.questions:
            case = compare(family, questions, options)
            print(row(case), flush=True)
            if options.json:
                machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
                versions = {name: version(name) for name in ("torch", "transformers")}
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(case | {"machine": machine, "versions": versions}) + "\n")
    print(
        f"The answers of all ways are the same to the letter. Goal: {GOAL} times the answers of batches at 8 questions"
        " an image, where the image encoder is half of the work of batches (its share is in the last column but one)."
    )


if __name__ == "__main__":
    main()
