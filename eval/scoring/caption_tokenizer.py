"""Tokenization of captions: Penn Treebank tokens, or plain words without Java."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from pycocoevalcap.tokenizer import ptbtokenizer

PTB_MAIN = "edu.stanford.nlp.process.PTBTokenizer"
PLAIN_NOTE = "plain (not comparable with published numbers)"


def tokenize_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "auto"
) -> tuple[list[str], list[list[str]], str]:
    """Tokens, joined by spaces, of predictions and references.

    Args:
        predictions: one caption each.
        references: any number of captions each.
        tokenizer: "ptb" (needs `java`), "plain", or "auto": ptb where there is a `java`, else plain.

    Returns:
        Predictions and references in the same order, and a note on the tokenizer for the result.

    Raises:
        ValueError: an unknown tokenizer.
        RuntimeError: Java failed.
    """
    name = ("ptb" if shutil.which("java") else "plain") if tokenizer == "auto" else tokenizer
    tokenizers = {"ptb": ptb_tokenize, "plain": plain_tokenize}
    if name not in tokenizers:
        raise ValueError(f"there is no tokenizer {name!r}; there are auto, {', '.join(tokenizers)}")
    # one call: starting Java costs more than its work
    flat = [*predictions, *(caption for captions in references for caption in captions)]
    tokens: Iterator[str] = iter(tokenizers[name](flat))
    found = [next(tokens) for _ in predictions]
    true = [[next(tokens) for _ in captions] for captions in references]
    return found, true, "ptb" if name == "ptb" else PLAIN_NOTE


def ptb_tokenize(texts: list[str]) -> list[str]:
    """Penn Treebank tokens without punctuation, by the jar that pycocoevalcap ships.

    The package's wrapper is not used: there a line separator inside a caption shifts all later captions by one, and
    it writes into site-packages.
    """
    # a last line, since the tokenizer drops trailing empty lines
    lines = "\n".join([*(" ".join(text.split()) for text in texts), "end"])
    jar = ptbtokenizer.__file__.replace("ptbtokenizer.py", ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", jar, PTB_MAIN, "-preserveLines", "-lowerCase"]
    run = subprocess.run([*command, "-encoding", "UTF-8"], input=lines.encode(), capture_output=True)
    output = run.stdout.decode().removesuffix("\n").split("\n")
    if run.returncode or len(output) != len(texts) + 1:
        raise RuntimeError(
            f"the Java tokenizer failed on {len(texts)} captions (exit {run.returncode}, {len(output)} lines); "
            f"tokenizer='plain' needs no Java: {run.stderr.decode(errors='replace')[-500:]}"
        )
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in dropped) for line in output[:-1]]


def plain_tokenize(texts: list[str]) -> list[str]:
    """Lower-case words without punctuation."""
    return [" ".join(re.sub(r"[.,!?;:\"`()\[\]{}]+", " ", text.lower()).split()) for text in texts]
