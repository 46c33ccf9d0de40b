import ast
import configparser
import importlib
import inspect
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

import openpali
import openpali_cli  # pyright: ignore[reportMissingImports]

CHECKOUT = Path(__file__).parents[1]
ROOMS = ("modeling", "data", "recipes", "eval", "scripts")
SOURCES = sorted(path for room in (*ROOMS, "src", "tests", "benchmarks") for path in (CHECKOUT / room).rglob("*.py"))

# what modeling/ builds on
NEEDED = """from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration
from transformers.models.paligemma.processing_paligemma import PaliGemmaProcessor
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel"""


def imported(path: Path):
    """(level, module) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """Names in a wheel built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for room in (*ROOMS, "src"):
        shutil.copytree(CHECKOUT / room, folder / "copy" / room, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(CHECKOUT / name, folder / "copy")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder), str(folder / "copy")], check=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_every_file_of_the_rooms(wheel):
    expected = {"openpali_cli.py", *(f"openpali/{path.name}" for path in (CHECKOUT / "src/openpali").glob("*.py"))}
    for room in ROOMS:
        files = [path for path in (CHECKOUT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        expected |= {f"openpali/{path.relative_to(CHECKOUT).as_posix()}" for path in files}
    assert {name for name in wheel if ".dist-info/" not in name} == expected


def test_the_wheel_carries_its_licences(wheel):
    licences = {name.split("/")[-1] for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_rooms_are_imported_by_their_full_names(path):
    """`import modeling` from the checkout would make a second copy of every class."""
    bare = [module for level, module in imported(path) if level == 0 and module.split(".")[0] in ROOMS]
    assert bare == []


@pytest.mark.parametrize("path", sorted((CHECKOUT / "modeling").glob("*.py")), ids=lambda path: path.name)
def test_modeling_needs_only_torch_and_transformers(path):
    """It is copied, flat, into exported checkpoints. Transformers itself requires the others."""
    allowed = {"torch", "transformers", "yaml", "numpy", "packaging", "huggingface_hub", "safetensors"}
    allowed |= set(sys.stdlib_module_names)
    siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
    for level, module in imported(path):
        if level:
            assert (level, module in siblings) == (1, True), module
        else:
            assert module.split(".")[0] in allowed, module


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_help_waits_for_no_heavy_import():
    code = "import sys, openpali_cli; openpali_cli.main(['--help']); print(sorted(sys.modules))"
    text, modules = run(code).rsplit("\n", 2)[:2]
    assert all(verb in text for verb in openpali_cli.VERBS)
    assert not {"torch", "transformers", "numpy", "openpali"} & set(ast.literal_eval(modules))


def test_importing_the_package_imports_nothing_but_the_classes_it_needs():
    show = "; import sys; print(sorted(sys.modules))"
    ours, needed = (set(ast.literal_eval(run(code + show))) for code in ("import openpali", NEEDED))
    rooms = {module.split(".")[1] for module in ours - needed if module.startswith("openpali.")}
    assert rooms == {"_support", "_version", "modeling"}
    # packaging reads the bounds of setup.cfg, in a millisecond
    assert {module.split(".")[0] for module in ours - needed} <= {"openpali", "packaging"}


def test_the_installed_command_answers():
    command = Path(sys.executable).parent / "openpali"
    done = subprocess.run([command, "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: openpali VERB")
    assert (
        subprocess.run([command, "--version"], capture_output=True, text=True).stdout.strip() == openpali.__version__
    )


def test_an_unknown_verb_is_named_and_fails(capsys):
    assert openpali_cli.main(["fly"]) == 2
    assert "no verb 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", openpali_cli.VERBS)
def test_every_verb_has_its_module_and_tells_its_options(verb, capsys):
    main = importlib.import_module(openpali_cli.VERBS[verb][0]).main
    (argv,) = inspect.signature(main).parameters.values()
    assert argv.default is None
    with pytest.raises(SystemExit) as stop:
        openpali_cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_every_extra_is_there():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    assert {"qlora", "eval", "demo", "deepspeed", "video", "data36", "dev"} <= extras


def test_public_names_and_version():
    assert all(inspect.isclass(openpali.__dict__[name]) for name in openpali.__all__ if name.startswith("Pali3"))
    assert openpali.__version__ == version("openpali")


@pytest.mark.parametrize("path", sorted((CHECKOUT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_recipes_run_as_files_too(path):
    """`accelerate launch recipes/transfer.py` puts recipes/ first on the path, where no name may hide a package."""
    assert path.stem not in packages_distributions()
    assert path.stem not in sys.stdlib_module_names
