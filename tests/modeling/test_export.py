import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from absent import ABSENT
from PIL import Image
from safetensors.torch import load_file
from tiny_adapters import save_checkpoint
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, SiglipVisionModel

import openpali
from openpali import Pali3ForConditionalGeneration
from openpali.modeling.export import main
from openpali.modeling.modeling_paligemma import published_name

SCRIPT = """
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

folder, image = sys.argv[1:]
ask = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
answer = ask(images=image, text="what is this", max_new_tokens=8, return_full_text=False)
print(json.dumps({
    "text": answer[0]["generated_text"],
    "modules": [type(part).__module__ for part in (ask.model, ask.model.config, ask.processor)],
}))
"""


@pytest.fixture
def image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def answer(model, processor, image) -> str:
    batch = processor(Image.open(image), "what is this", return_tensors="pt")
    return processor.batch_decode(model.generate(**batch, max_new_tokens=8), skip_special_tokens=True)[0]


def test_an_exported_folder_answers_where_openpali_is_not(tiny_model, tiny_processor, image, tmp_path):
    folder = openpali.export(tiny_model, tiny_processor, tmp_path / "exported")
    expected = answer(tiny_model, tiny_processor, image)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ABSENT + SCRIPT, str(folder), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert expected
    assert result["text"] == expected
    assert all(module.startswith("transformers_modules.") for module in result["modules"])


def test_the_folder_holds_all_the_code_and_no_other(tiny_model, tiny_processor, tmp_path):
    folder = openpali.export(tiny_model, tiny_processor, tmp_path)
    code = {path.name for path in folder.glob("*.py")}
    parts = {f"{name}_pali3.py" for name in ("configuration", "modeling", "processing")}
    parts |= {f"modeling_pali3_{name}.py" for name in ("encoder", "multimodal", "outputs")}
    parts |= {f"processing_{name}.py" for name in ("chat", "offsets", "prefix_suffix", "tokenizer")}
    parts |= {"checkpoints.py", "user_errors.py", "control_tokens.py", "image_patches.py", "initial_weights.py"}
    assert code == parts | {"loss_request.py", "token_loss.py", "transformers_versions.py"}
    source = Path(openpali.export.__code__.co_filename).parent
    assert all((folder / name).read_text() == (source / name).read_text() for name in code)
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_pali3.Pali3Config",
        "AutoModel": "modeling_pali3.Pali3Model",
        "AutoModelForImageTextToText": "modeling_pali3.Pali3ForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_pali3_multimodal.Pali3ForMultimodalLM",
    }
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": "processing_pali3.Pali3Processor"}


def test_ordinary_saves_write_no_code_also_after_an_export(tiny_model, tiny_processor, tmp_path):
    openpali.export(tiny_model, tiny_processor, tmp_path / "exported")
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_processor.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.py"))
    for path in (tmp_path / "saved").glob("*.json"):
        assert "auto_map" not in path.read_text(), path.name


def test_saved_folders_load_through_the_auto_classes(tiny_model, tiny_processor, image, tmp_path):
    """With our own classes, also where the folder brings its code along."""
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_processor.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "saved", openpali.export(tiny_model, tiny_processor, tmp_path / "exported")):
        model = AutoModelForImageTextToText.from_pretrained(folder)
        assert type(model) is Pali3ForConditionalGeneration
        assert type(AutoConfig.from_pretrained(folder)) is openpali.Pali3Config
        processor = AutoProcessor.from_pretrained(folder)
        assert type(processor) is openpali.Pali3Processor
        assert answer(model, processor, image) == answer(tiny_model, tiny_processor, image)


def test_an_exported_model_can_be_exported_again(tiny_model, tiny_processor, image, tmp_path):
    openpali.export(tiny_model, tiny_processor, tmp_path / "first")
    main([str(tmp_path / "first"), str(tmp_path / "second")])
    names = {path.name for path in (tmp_path / "first").iterdir()}
    assert {path.name for path in (tmp_path / "second").iterdir()} == names
    model = Pali3ForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert answer(model, tiny_processor, image) == answer(tiny_model, tiny_processor, image)


def test_a_model_that_transformers_knows_needs_no_code(tiny_model, tiny_processor, tmp_path):
    torch.manual_seed(0)
    model = SiglipVisionModel(tiny_model.config.vision_config)
    openpali.export(model, tiny_processor, tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in (tmp_path / "config.json").read_text()


def test_a_paligemma_has_the_names_of_the_published_checkpoints(tiny_tokenizer, tmp_path):
    """Wherever its weights came from: other programs that read PaliGemma know no others."""
    save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "saved")
    main([str(tmp_path / "saved"), str(tmp_path / "exported")])
    main([str(tmp_path / "exported"), str(tmp_path / "again")])
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    for folder in ("exported", "again"):
        exported = load_file(tmp_path / folder / "model.safetensors")
        assert exported.keys() == {published_name(name) for name in saved}
        assert all(torch.equal(exported[published_name(name)], weight) for name, weight in saved.items())
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported")
    assert model.state_dict().keys() >= saved.keys()
