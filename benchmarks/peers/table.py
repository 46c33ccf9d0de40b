"""The answers of the programs as a table of Markdown."""

from typing import Any

COLUMNS = ["program", "answer sees its end", "attention both ways", "loss", "trained on", "resumed", "3 × 1 and 1 × 3"]
COLUMNS += ["saved model", "MB"]
NAMES = {"answer": "answer", "end": "end", "start": "`<bos>`", "separator": "newline", "prompt": "prompt"}
NAMES |= {"image": "image", "padding": "padding", "other": "other tokens"}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """One row a program; where it did not run, its reason."""
    lines = [line(COLUMNS), "|".join(["", *["---"] * len(COLUMNS), ""])]
    return "\n".join([*lines, *(line([name, *cells(row)]) for name, row in rows.items())]) + "\n"


def line(values: list[str]) -> str:
    """A line of the table; bars within a value are escaped."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of a program behind its name."""
    if "error" in row:
        return [f"does not run: {row['error']}", *["–"] * (len(COLUMNS) - 2)]
    found = [future(row), cell(row["prefix"], prefix), cell(row["loss"], lambda one: one["kind"])]
    found += [cell(row["loss"], predicts), cell(row["resume"], resume), cell(row["accumulation"], accumulation)]
    return [*found, cell(row["saved"], saved), cell(row["memory"], lambda one: f"{one['megabytes']:,.0f}")]


def cell(answer: Any, text: Any) -> str:
    """The text of an answer, or why there is none."""
    return f"failed: {answer['error']}" if isinstance(answer, dict) and "error" in answer else text(answer)


def future(row: dict[str, Any]) -> str:
    """Whether answers see their own end, in a padded batch and one by one."""
    together, alone = row["future"], row["future alone"]
    for answer in (together, alone):
        if isinstance(answer, dict):
            return f"failed: {answer['error']}"
    return {(False, False): "no", (True, True): "yes"}.get(
        (together, alone), "yes, in a padded batch" if together else "yes, without padding"
    )


def prefix(answer: dict[str, bool]) -> str:
    """What is read in both directions."""
    image = answer["the image sees the image"]
    if image and answer["the image sees the prompt"] and answer["the prompt sees the prompt"]:
        return "image and prompt"
    if answer["the prompt sees the prompt"]:
        return "prompt"
    return "image" if image else "nothing"


def predicts(answer: dict[str, Any]) -> str:
    """Which tokens the loss is of, as far as gradients tell."""
    return ", ".join(text for kind, text in NAMES.items() if kind in answer["predicts"])


def resume(answer: dict[str, Any]) -> str:
    """The first loss after resuming, beside that of the uninterrupted run, where they differ."""
    if answer["same"]:
        return "same losses"
    whole, resumed = answer["uninterrupted"][0], answer["resumed"][0]
    return f"other losses: {resumed:.3f}, not {whole:.3f}"


def accumulation(answer: dict[str, Any]) -> str:
    """Loss and gradient norm of an update in three parts and in one, where they differ."""
    if answer["same"]:
        return "equal"
    parts, whole = answer["3 x 1"], answer["1 x 3"]
    losses = f"losses {parts['loss']:.2f} and {whole['loss']:.2f}"
    return f"{losses}, gradient norms {parts['norm']:.2f} and {whole['norm']:.2f}"


def saved(answer: dict[str, Any]) -> str:
    """Whether the saved model answers as the trained one."""
    return "same logits" if answer["same"] else f"logits differ by {answer['largest difference']:.2g}"


def versions(rows: dict[str, dict[str, Any]]) -> str:
    """A list of the programs with their packages; rows with the same word before the colon share an environment."""
    kept: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        kept.setdefault(name.split(":")[0], row.get("versions", {}))
    packages = {name: ", ".join(f"{one} {number}" for one, number in found.items()) for name, found in kept.items()}
    return "\n".join(f"- {name}: {text or 'not installed'}" for name, text in packages.items()) + "\n"
