"""`python benchmarks/train_step_gpu.py`: throughput, peak memory and FLOPs utilisation of PaliGemma-3B on a GPU.

Training steps with the shapes of PaliGemma-3B, random weights in bfloat16 and AdamW, at each published resolution:
stock Transformers (full logits) against our class trained in full, with LoRA and with QLoRA. Operations are computed
from the shapes: 2 for each weight and token in the forward, twice that in the backward (once for frozen weights, which
need no gradient of their own), and those of attention. Utilisation is their rate as a share of the GPU's dense
bfloat16 peak. Without a GPU it prints so and ends; `--tiny` runs a toy model of the same form anywhere, to test the
code.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PaliGemmaConfig
from transformers import PaliGemmaForConditionalGeneration as Stock

from openpali.modeling.four_bit import four_bit_config, load_four_bit
from openpali.modeling.modeling_paligemma import PaliGemmaForConditionalGeneration
from openpali.recipes.start.adapters import AdapterArguments, add_adapters

TEXT_TOKENS, SUFFIX_TOKENS = 128, 32
# dense bfloat16 operations per second, from the manufacturers' data sheets
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "A10": 125e12}
# resolution: examples in a batch
BATCHES = {224: 16, 448: 8, 896: 2}
KINDS = ("stock", "full", "lora", "qlora")


def configuration(resolution: int, tiny: bool) -> PaliGemmaConfig:
    """The configuration of PaliGemma-3B, or of a toy."""
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    text = {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8}
    if tiny:
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": resolution, "patch_size": 14, "vision_use_head": False}
    text |= {"num_key_value_heads": 1, "head_dim": 256, "vocab_size": 2048 if tiny else 257_216}
    width = text["hidden_size"]
    return PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model"} | vision,
        text_config={"model_type": "gemma"} | text,
        image_token_id=text["vocab_size"] - 64,
        projection_dim=width,
        hidden_size=width,
        attn_implementation="sdpa",
    )


def make_model(kind: str, config: PaliGemmaConfig, device: torch.device) -> Any:
    """A random model as in the recipe: full, with adapters, or in 4 bits with adapters."""
    with device:
        model: Any = (Stock if kind == "stock" else PaliGemmaForConditionalGeneration)(config).to(torch.bfloat16)
    if kind == "qlora":
        folder = Path(tempfile.mkdtemp())
        model.save_pretrained(folder)
        del model
        model = load_four_bit(PaliGemmaForConditionalGeneration, str(folder), four_bit_config(torch.bfloat16), device)
        shutil.rmtree(folder)
    if kind in ("lora", "qlora"):
        add_adapters(model, AdapterArguments(peft=kind), freeze=[])
    return model.train()


def make_batch(config: PaliGemmaConfig, examples: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random images, prefixes of 96 tokens and suffixes of 32."""
    vision: Any = config.vision_config
    image = (vision.image_size // vision.patch_size) ** 2
    ids = torch.randint(3, config.image_token_id, (examples, image + TEXT_TOKENS), device=device)
    ids[:, :image] = config.image_token_id
    types = torch.zeros_like(ids)
    types[:, -SUFFIX_TOKENS:] = 1
    images = torch.rand(examples, 3, vision.image_size, vision.image_size, device=device, dtype=torch.bfloat16)
    labels = ids.masked_fill(types == 0, -100)
    return {
        "pixel_values": images * 2 - 1,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": types,
        "labels": labels,
    }


def operations(kind: str, config: PaliGemmaConfig, examples: int) -> float:
    """Floating-point operations of one step of a batch, as defined at the top."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    image = (vision.image_size // vision.patch_size) ** 2
    length = image + TEXT_TOKENS
    v, t = vision.hidden_size, text.hidden_size
    attention = text.num_attention_heads * text.head_dim
    vision_weights = vision.num_hidden_layers * (4 * v * v + 2 * v * vision.intermediate_size)
    heads = 2 * attention + 2 * text.num_key_value_heads * text.head_dim
    text_weights = text.num_hidden_layers * (t * heads + 3 * t * text.intermediate_size)
    matrices = image * (vision_weights + v * t) + length * text_weights + SUFFIX_TOKENS * t * text.vocab_size
    scores = 2 * (vision.num_hidden_layers * v * image**2 + text.num_hidden_layers * attention * length**2)
    # forward, gradients of the inputs, gradients of the weights
    return examples * 2 * (matrices * (2 if "lora" in kind else 3) + 3 * scores)


def measure(kind: str, resolution: int, options: argparse.Namespace, device: torch.device) -> str:
    """One row of the table."""
    config = configuration(resolution, options.tiny)
    examples = options.batch or BATCHES.get(resolution, 2)
    model = make_model(kind, config, device)
    batch = make_batch(config, examples, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    on_gpu, seconds = device.type == "cuda", []
    for _ in range(options.repeats + 1):
        begin = time.perf_counter()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    # the first step compiles, allocates and creates the optimizer's state
    fastest = min(seconds[1:])
    tokens = batch["input_ids"].numel() / fastest
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    share = operations(kind, config, examples) / fastest / peak_of(device)
    return f"{fastest:9.3f} {examples / fastest:9.2f} {tokens:10,.0f} {memory:9.1f} {share:9.1%}"


def peak_of(device: torch.device) -> float:
    """Peak operations per second of the device; NaN if unknown."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    return next((peak for key, peak in PEAKS.items() if key in name), float("nan"))


def main() -> None:
    """Measure every kind at every resolution."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--resolutions", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--batch", type=int, help="examples; depends on the resolution if unset")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a toy model, also without a GPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU found: nothing was measured")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'no GPU'}, torch {torch.__version__}")
    columns = ("s/step", "ex/s", "tokens/s", "peak GiB", "of peak")
    print(f"{'':<22}" + " ".join(f"{name:>{10 if name == 'tokens/s' else 9}}" for name in columns))
    for resolution in options.resolutions:
        for kind in options.kinds:
            try:
                row = measure(kind, resolution, options, device)
            except torch.cuda.OutOfMemoryError:
                row = "out of memory"
            print(f"{resolution:>5} px {kind:<13} {row}", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    sys.exit(main())
