"""The house: one direction of imports, folders that fit on a screen, short files and functions, tests that mirror."""

import ast
import re
import subprocess
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROOMS = ("modeling", "data", "eval", "recipes", "scripts")
PAGE = (CHECKOUT / "docs" / "architecture.md").read_text("utf-8")
# rooms from the top down, as files or folders
ORDER = [re.findall(r"`([\w/.]+)`", row) for row in re.findall(r"^\| (`\w.*?) \|", PAGE, re.MULTILINE)]
# the files of modeling/ travel flat with exported checkpoints, and the tests of a file lie beside each other
CROWDED = ("modeling", "data/tasks", "recipes/configs/transfers", "benchmarks/comparisons/rows")
CROWDED += ("tests/fixtures", "tests/modeling")
MOST_FILES, MOST_LINES, LONGEST_FUNCTION = 18, 350, 80


def tracked(*patterns: str) -> list[str]:
    """Files of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in found if name and (CHECKOUT / name).exists()]


MODULES = [name for name in tracked(*(f"{room}/*.py" for room in ROOMS)) if name.endswith(".py")]


def file_of(parts: list[str]) -> str | None:
    """The file of a dotted name below `openpali`."""
    path = "/".join(parts)
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in MODULES), None)


def imported(name: str, code: str) -> set[str]:
    """Files of the rooms that a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = ["openpali", *name.split("/")[: -node.level], *base]
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "openpali":
                found.add(file_of(target[1:]) or file_of(target[1:-1]))
    return {one for one in found if one and one != name}


def place(name: str) -> int:
    """The place of a file's room in the list: that of the longest path that it begins with."""
    fitting = [(len(path), place) for place, row in enumerate(ORDER) for path in row if name.startswith(path)]
    assert fitting, f"{name} lies in no room of docs/architecture.md"
    return max(fitting)[1]


def upward(name: str, code: str) -> list[str]:
    """What a file imports from rooms above its own."""
    return sorted(one for one in imported(name, code) if place(one) < place(name))


def test_imports_go_down():
    found = {name: upward(name, (CHECKOUT / name).read_text("utf-8")) for name in MODULES}
    assert {name: above for name, above in found.items() if above} == {}


def test_an_upward_import_is_seen():
    name = "data/masks/rle.py"
    code = "def late():\n    from openpali.eval.report.page import write_report\n    import openpali.data.images.video"
    assert upward(name, code) == ["data/images/video.py", "eval/report/page.py"]
    assert upward("modeling/ring_exchange.py", "from openpali.data import example") == ["data/example.py"]


def test_no_file_imports_itself_round_about():
    graph = {name: imported(name, (CHECKOUT / name).read_text("utf-8")) for name in MODULES}
    # a table of names imports what is asked for; what it imports by itself must not lead back
    list(TopologicalSorter(graph).static_order())


def test_the_list_names_rooms_that_are_there():
    assert all((CHECKOUT / path).exists() for row in ORDER for path in row)
    folders = {Path(name).parent.as_posix() + "/" for name in MODULES if name.endswith("__init__.py")}
    assert folders - {path for row in ORDER for path in row} <= {"data/"}


def test_the_list_says_of_a_room_what_its_package_says():
    for path, text in re.findall(r"^\| `([\w/]+/)` \| (.*) \|$", PAGE, re.MULTILINE):
        package = CHECKOUT / path / "__init__.py"
        if package.exists():
            assert (ast.get_docstring(ast.parse(package.read_text("utf-8"))) or "").splitlines()[0] == text


def test_folders_fit_on_a_screen():
    count = Counter(Path(name).parent.as_posix() for name in tracked())
    assert {folder: number for folder, number in count.items() if number > MOST_FILES and folder not in CROWDED} == {}


def test_files_are_short():
    names = tracked("*.py", "*.j2", "*.md", "*.sh")
    lengths = {name: len((CHECKOUT / name).read_text("utf-8").splitlines()) for name in names}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_functions_are_short():
    found = {}
    for name in tracked("*.py"):
        for node in ast.walk(ast.parse((CHECKOUT / name).read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                found[f"{name}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert found == {}


def test_tests_mirror_the_rooms():
    """A folder of tests is a folder of what is tested."""
    mirrored = {
        Path(name).parent.relative_to("tests").as_posix() for room in ROOMS for name in tracked(f"tests/{room}")
    }
    assert {folder for folder in mirrored if not (CHECKOUT / folder).is_dir()} == set()
    beside = {Path(name).parts[1] for name in tracked("tests") if len(Path(name).parts) > 2} - set(ROOMS)
    assert beside == {"benchmarks", "docs", "engines", "fixtures", "helpers"}
