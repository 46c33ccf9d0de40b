"""What the guide shows is what happens: its blocks run in their order, as one day in one folder."""

import re
from pathlib import Path

import pytest
from absent import ABSENT
from loopback_hub import loopback_hub
from page_blocks import ROOT, Block, blocks, run_apart, run_command, started
from page_checks import installs, is_known, logs_in, serves, shows_curves, transfers
from tiny_adapters import save_checkpoint

GUIDE = ROOT / "docs" / "guide"
# a day in its order
PAGES = ["install", "your-data", "checkpoint", "adapters", "report", "push", "serve"]
# test_peers.py, and the tests in guide/ and beside this one, have these
APART = ["trl", "groups", "reward", "aspect-ratio", "siglip2", "web"]

# the shortest training that there is; everything else is as the page says
QUICK = {"max_steps": 2, "use_cpu": "true", "eval_limit": 2, "test_limit": 2, "per_device_train_batch_size": 2}
QUICK |= {"task.max_new_tokens": 6}


# what cannot run without a network, a login or a window, and what is looked at in its place; whatever is added to the
# pages and cannot run either has to be added here
NOT_RUN = {
    "pip install torch": installs,
    'pip install ".[eval,demo]"': installs,
    'pip install "transformers[serving]"': installs,
    "hf auth login": logs_in,
    "tensorboard --logdir outputs/shapes/tensorboard": shows_curves,
    "transformers serve my-pali --trust-remote-code --device cpu --port 8000": serves,
    "openpali export outputs/my-paligemma my-paligemma": is_known,
    # tests/modeling/test_vllm_layout.py has what these need
    "vllm serve my-paligemma --port 8000 --chat-template \"{{ messages[-1]['content'] }}\"": is_known,
    "vllm serve google/paligemma2-3b-pt-224 --enable-lora --max-lora-rank 16 --lora-modules shapes=outputs/my-adapters"
    " --chat-template \"{{ messages[-1]['content'] }}\"": is_known,
    "openpali transfer --config transfers/textvqa --model google/paligemma-3b-pt-448 --resolution 448": transfers,
    "openpali transfer --model google/paligemma2-3b-pt-224 --data shapes --kind detect"
    " --output_dir outputs/shapes-qlora --peft qlora": transfers,
}


def run_block(block: Block) -> None:
    if block.language == "python":
        if "OpenAI(" in block.text:
            return  # a client, which test_serve.py runs beside its server
        exec(compile(block.text, str(block.page), "exec"), {"__name__": "block"})
        return
    for command in block.commands():
        if command in NOT_RUN:
            NOT_RUN[command](command)
        else:
            run_command(command, {"recipes.transfer": QUICK})


def push(folder: Path) -> None:
    """The page that needs a Hub: the same answer comes back from it with openpali and without."""
    commands = [command for block in blocks(GUIDE / "push.md") for command in block.commands()]
    uploads = [command for command in commands if command.startswith("openpali push") and "--dry_run" not in command]
    assert len(uploads) == 1
    for command in commands:
        if command not in uploads:
            run_command(command) if command not in NOT_RUN else NOT_RUN[command](command)
    codes = [block.text for block in blocks(GUIDE / "push.md") if block.language == "python"]
    assert "push_to_hub" in codes[0]
    assert "trust_remote_code=True" in codes[-1]
    assert "import openpali" not in codes[-1]
    module, arguments = started(uploads[0])
    pushed = f"from {module} import main\nmain({arguments})"
    with loopback_hub() as (address, repositories):
        *_, with_it = run_apart([pushed, *codes[:-1]], folder, address)
        *_, without = run_apart(codes[-1:], folder, address, before=ABSENT)
    # a tokenizer's configuration tells whether it was loaded offline, as here
    uploaded = {name: one for name, one in repositories["you/my-pali"].items() if name != "tokenizer_config.json"}
    exported = {path.name: path.read_bytes() for path in Path("my-pali").iterdir()}
    assert {name: exported[name] for name in uploaded if name != "README.md"}.items() <= uploaded.items()
    planned = {path.name: path.read_bytes() for path in Path("outputs/shapes-push").iterdir()}
    assert set(planned) == set(repositories["you/my-pali"]) == {*exported, "README.md"}
    assert {name: planned[name] for name in uploaded} == uploaded
    assert not [name for name in repositories["you/my-shapes"] if name.endswith(".py")]
    assert b"openpali wrote this card" in repositories["you/my-shapes"]["README.md"]
    assert with_it == without != ""


@pytest.mark.adapters
def test_the_day_of_the_guide_happens_as_it_says(tmp_path, tiny_tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("pali3", tiny_tokenizer, tmp_path / "outputs" / "located" / "located")
    told = {}
    for page in PAGES:
        if page == "push":
            push(tmp_path)
        else:
            for block in blocks(GUIDE / f"{page}.md"):
                run_block(block)
        told[page] = capsys.readouterr().out
    assert "160 records of 160 images" in told["your-data"]
    assert "80 GB GPUs" in told["checkpoint"]
    assert "location tokens        untrained: " in told["checkpoint"]
    assert '"special_tokens": {' in told["checkpoint"]
    assert "adapters of rank 16" in told["adapters"]
    assert re.search(r"shapes-merged 0\.\d+ between", told["report"])
    assert "('circle', (0.0, 0.25" in told["serve"]
    assert "'<loc9> square'" in told["serve"]
    assert "features (1, " in told["serve"]
    assert Path("found.png").exists()
    listed = (GUIDE / "report.md").read_text("utf-8").split("```")[0]
    named = set(re.findall(r"`([\w/]+\.\w+)`", listed))
    assert {name for name in named if not Path("outputs/shapes", name).exists()} <= {"skipped_records.jsonl"}
    assert len(named) >= 6


def test_nothing_is_listed_as_not_run_that_no_page_shows():
    shown = [
        command
        for page in PAGES
        for block in blocks(GUIDE / f"{page}.md")
        if block.language == "bash"
        for command in block.commands()
    ]
    assert set(NOT_RUN) <= set(shown)


def test_every_page_is_run_and_its_links_lead_somewhere():
    assert {path.stem for path in GUIDE.glob("*.md")} == {*PAGES, *APART, "README", "coming-from"}
    for path in GUIDE.glob("*.md"):
        text = path.read_text("utf-8")
        for target, _, anchor in re.findall(r"\]\(([\w./-]+\.md)(#([\w-]+))?\)", text):
            found = path.parent / target
            headings = re.findall(r"^#+ (.+)$", found.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert not anchor or anchor in slugs, (path.name, target, anchor)
    index = (GUIDE / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((?!\.)([\w-]+)\.md\)", index)[: len(PAGES)] == PAGES
    assert {block.language for page in PAGES for block in blocks(GUIDE / f"{page}.md")} == {"bash", "python"}
