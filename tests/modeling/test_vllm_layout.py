"""What vLLM 0.32 and 0.33 ask of a PaliGemma and its adapters, since vLLM itself wants a GPU.

The names are those of vllm/model_executor/models/paligemma.py, vllm/lora/peft_helper.py and vllm/lora/lora_model.py.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from safetensors import safe_open
from tiny_adapters import adapted_model, save_checkpoint

import openpali.recipes
from openpali.eval.answering.load_model import adapter_parameters, finish_adapters
from openpali.modeling.export import main

PAGE = (Path(openpali.recipes.__file__).parents[1] / "docs" / "guide" / "serve.md").read_text("utf-8")
# beginnings of vLLM's modules, once its mapper has renamed nothing
MODULES = ("vision_tower.vision_model.", "multi_modal_projector.linear.", "language_model.model.")
CONFIG = ["image_token_index", "vision_config.image_size", "vision_config.patch_size", "vision_config.hidden_size"]
CONFIG += ["vision_config.projection_dim", "text_config.model_type", "text_config.vocab_size"]
# linear layers that take adapters; the projector's is not among them
ADAPTED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

# in a process that imports no openpali: the processor of the folder is Transformers' own
PROCESSOR = """
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
tokenizer = processor.tokenizer
print(json.dumps({
    "class": type(processor).__module__ + "." + type(processor).__name__,
    "images": processor._get_num_multimodal_tokens(image_sizes=[(30, 40)]).num_image_tokens,
    "bos": type(tokenizer.bos_token_id).__name__,
    "adds_bos": type(getattr(tokenizer, "add_bos_token", None)).__name__,
    "image": tokenizer.convert_tokens_to_ids("<image>"),
}))
"""


def names(folder: Path, file: str) -> list[str]:
    """Of the tensors in a file."""
    with safe_open(folder / file, "pt") as weights:
        return list(weights.keys())


@pytest.fixture(scope="module")
def exported(tiny_tokenizer, tmp_path_factory):
    """The folder of the page's first command."""
    root = tmp_path_factory.mktemp("vllm")
    save_checkpoint("paligemma", tiny_tokenizer, root / "saved")
    main([str(root / "saved"), str(root / "exported")])
    return root / "exported"


def test_architecture_and_configuration(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["PaliGemmaForConditionalGeneration"]
    assert config["model_type"] == "paligemma"
    assert "auto_map" not in config
    for path in CONFIG:
        value = config
        for key in path.split("."):
            value = value[key]
        assert value is not None, path
    assert config["vision_config"]["projection_dim"] == config["text_config"]["hidden_size"]


def test_every_weight_has_a_name_that_the_loader_knows(exported):
    found = names(exported, "model.safetensors")
    assert found
    assert all(name.startswith(MODULES) for name in found)
    assert {name.split(".")[0] for name in found} == {module.split(".")[0] for module in MODULES}


def test_processor_tokenizer_and_image_token(exported):
    command = [sys.executable, "-c", f"import json, sys\n{PROCESSOR}", str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["class"] == "transformers.models.paligemma.processing_paligemma.PaliGemmaProcessor"
    config = json.loads((exported / "config.json").read_text())
    vision = config["vision_config"]
    assert found["images"] == [(vision["image_size"] // vision["patch_size"]) ** 2]
    assert (found["bos"], found["adds_bos"], found["image"]) == ("int", "bool", config["image_token_index"])
    assert {"tokenizer.json", "tokenizer_config.json", "processor_config.json"} <= {
        path.name for path in exported.iterdir()
    }


def test_the_chat_template_of_the_page_writes_the_prompt_alone():
    templates = re.findall(r'--chat-template "(.*?)"$', PAGE, re.MULTILINE)
    assert len(templates) == 2
    messages = [{"role": "system", "content": "detect"}, {"role": "user", "content": "detect dog"}]
    for template in templates:
        assert jinja2.Template(template).render(messages=messages) == "detect dog"


@pytest.mark.adapters
def test_adapters_of_the_text_model_are_those_that_it_takes(exported, tmp_path):
    (advice,) = re.findall(r"`(--peft lora --freeze [\w ]+)`", PAGE)
    frozen = tuple(shlex.split(advice)[3:])
    model = adapted_model(exported, "lora", frozen)
    model.save_pretrained(tmp_path)
    finish_adapters(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] > 0
    assert config["lora_alpha"]
    assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
    assert {module.split(".")[-1] for module in config["target_modules"]} == ADAPTED
    found = names(tmp_path, "adapter_model.safetensors")
    pattern = re.compile(r"base_model\.model\.model\.language_model\.layers\.\d+\.\w+\.(\w+)\.lora_[AB]\.weight")
    assert {match[1] for name in found if (match := pattern.fullmatch(name))} == ADAPTED
    assert all(pattern.fullmatch(name) for name in found)


@pytest.mark.adapters
def test_adapters_of_every_layer_are_more_than_it_takes(exported):
    """As the page says: the projector's adapter is refused."""
    adapters = adapter_parameters(adapted_model(exported, "lora"))
    assert any("multi_modal_projector" in name for name in adapters)
    assert any("vision_tower" in name for name in adapters)
