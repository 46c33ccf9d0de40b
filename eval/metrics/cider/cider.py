"""CIDEr of captions, by the COCO caption evaluation's own scorer."""

import re
import shutil
import subprocess

import datasets
import evaluate
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer import ptbtokenizer

_DESCRIPTION = "CIDEr x 100 after Penn Treebank tokenisation, as in the COCO caption evaluation."
_CITATION = """
@inproceedings{vedantam2015cider,
    title={CIDEr: Consensus-based image description evaluation},
    author={Vedantam, Ramakrishna and Lawrence Zitnick, C and Parikh, Devi},
    booktitle={CVPR}, year={2015}}
"""
_KWARGS = """
Args:
    predictions: list of str.
    references: list of lists of str, or list of str. N-grams are weighed by how rare they are among the
        references of this call, so the value depends on the whole set, and one picture alone scores 0.
    tokenizer: "ptb" (needs `java`), "plain", or "auto" (default): ptb where there is a `java`, else plain.
    return_scores: also return `scores`, CIDEr x 100 per prediction (default False).
Returns:
    cider: float, x 100 as in papers.
    tokenizer: what split the words; a plain result says that it cannot be compared with published numbers.
"""

PTB_MAIN = "edu.stanford.nlp.process.PTBTokenizer"
PLAIN_NOTE = "plain (not comparable with published numbers)"


class CiderMetric(evaluate.Metric):
    """CIDEr x 100."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]] | list[str],
        tokenizer: str = "auto",
        return_scores: bool = False,
    ) -> dict[str, float | str | list[float]]:
        groups = [[captions] if isinstance(captions, str) else list(captions) for captions in references]
        if empty := [index for index, captions in enumerate(groups) if not captions]:
            raise ValueError(f"prediction {empty[0]} has no reference: CIDEr needs at least one")
        name = ("ptb" if shutil.which("java") else "plain") if tokenizer == "auto" else tokenizer
        split = {"ptb": ptb_tokenize, "plain": plain_tokenize}[name]
        # one call: starting Java costs more than its work
        texts = iter(split([*predictions, *(caption for captions in groups for caption in captions)]))
        results = {index: [next(texts)] for index in range(len(predictions))}
        truths = {index: [next(texts) for _ in captions] for index, captions in enumerate(groups)}
        score, scores = Cider().compute_score(truths, results)
        result: dict[str, float | str | list[float]] = {
            "cider": 100 * float(score),
            "tokenizer": "ptb" if name == "ptb" else PLAIN_NOTE,
        }
        return result | {"scores": [100 * float(value) for value in scores]} if return_scores else result


def ptb_tokenize(texts: list[str]) -> list[str]:
    """Penn Treebank tokens without punctuation, by the jar that pycocoevalcap ships.

    The package's own wrapper is not used: a line separator inside a caption (models write them) shifts all
    later captions by one there, and it writes into site-packages.
    """
    # the tokenizer drops trailing empty lines, hence the line at the end
    lines = "\n".join([*(" ".join(text.split()) for text in texts), "end"])
    jar = ptbtokenizer.__file__.replace("ptbtokenizer.py", ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", jar, PTB_MAIN, "-preserveLines", "-lowerCase"]
    run = subprocess.run([*command, "-encoding", "UTF-8"], input=lines.encode(), capture_output=True)
    output = run.stdout.decode().removesuffix("\n").split("\n")
    if run.returncode or len(output) != len(texts) + 1:
        raise RuntimeError(
            f"the Java tokenizer failed on {len(texts)} captions (exit {run.returncode}, {len(output)} lines); "
            f"tokenizer='plain' does without Java: {run.stderr.decode(errors='replace')[-500:]}"
        )
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in dropped) for line in output[:-1]]


def plain_tokenize(texts: list[str]) -> list[str]:
    """Lower-case words without the punctuation that surrounds them."""
    return [" ".join(re.sub(r"[.,!?;:\"`()\[\]{}]+", " ", text.lower()).split()) for text in texts]
