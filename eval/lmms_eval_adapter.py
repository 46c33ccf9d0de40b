"""PaLI-3 and PaliGemma as models of lmms-eval, which has hundreds of tasks: `lmms-eval --model openpali`.

lmms-eval finds this file through its entry point (`lmms_eval.models` in setup.cfg); nothing else here needs it.
Written for lmms-eval 0.7.3 (MIT and Apache-2.0). docs/evaluation.md has the commands.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from accelerate import Accelerator
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]
from PIL import Image
from tqdm import tqdm

from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.data.images.open_image import load_image
from openpali.eval.answering.decoding import eval_mode, generate
from openpali.eval.answering.load_model import load_model
from openpali.modeling.processing_prefix_suffix import PrefixSuffixProcessor
from openpali.modeling.processing_tokenizer import IMAGE_TOKEN

logger = logging.getLogger(__name__)

# for tasks that set no limit
MAX_NEW_TOKENS = 64
# a new line ends lmms-eval's questions and begins its instructions to chat models
INSTRUCTIONS = "\n"


class Request(Protocol):
    """The part of lmms-eval's `Instance` that is read: see `Openpali.generate_until` and `Openpali.loglikelihood`."""

    args: tuple[Any, ...]


class Openpali(lmms):
    """A checkpoint of openpali, or adapters, that answers lmms-eval's requests.

    Args:
        pretrained: folder or Hub name.
        prompt: template of the prompt, in which `{}` is the task's question: `answer en {}`.
        first_line: keep of a question its first line alone. Behind it most tasks have instructions to chat models.
        device: such as "cuda:1"; under `accelerate launch` each process takes its own.
        dtype: float32, bfloat16, float16, or auto, the checkpoint's own.
        batch_size: examples a batch.
        max_batch_size: lmms-eval's, not used.

    Raises:
        ValueError: the template has no `{}`.
        OSError: the checkpoint is missing or not whole.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        prompt: str = "{}",
        first_line: bool = False,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if "{}" not in prompt:
            raise ValueError(f"prompt={prompt}: it has no {{}}, which stands for the question, as in answer en {{}}")
        self.prompt, self.first_line, self.batch_size = prompt, first_line, int(batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            device = str(self.accelerator.device)
        self.model, self.processor = load_model(pretrained, device, dtype)

    def example(self, question: str, images: Iterable[Any] | None, answer: str = "") -> Example:
        """A question and its images in the words of this model.

        Raises:
            ValueError: one of them is no image.
        """
        if self.first_line:
            question = question.strip().split(INSTRUCTIONS)[0]
        question = self.prompt.replace("{}", question.replace(IMAGE_TOKEN, "").strip())
        return Example("", "lmms-eval", tuple(as_image(one) for one in images or ()), question, answer)

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """Answer greedily or by beam search (`num_beams`); `temperature` is not used.

        Args:
            requests: `args` are the question, the task's options of generation, `doc_to_visual`, the number of the
                record, task and split.

        Returns:
            One answer a request, in their order, cut at the first of the task's `until`.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        examples: list[Example] = []
        for index, (question, options, images_of, *where) in enumerate(request.args for request in requests):
            examples.append(self.example(question, images_of(self.record(*where))))
            key = int(options.get("max_new_tokens") or MAX_NEW_TOKENS), int(options.get("num_beams") or 1)
            groups.setdefault(key, []).append(index)
            if options.get("do_sample") or options.get("temperature"):
                logger.warning("openpali answers greedily: the task's temperature is not used")
        answers = [""] * len(examples)
        for (limit, beams), indices in groups.items():
            chosen = [examples[index] for index in indices]
            texts = generate(self.model, self.processor, chosen, self.batch_size, limit, beams)
            for index, text in zip(indices, texts):
                question, options = requests[index].args[:2]
                answers[index] = cut(text, options.get("until"))
                self.cache_hook.add_partial("generate_until", (question, options), answers[index])
        return answers

    def loglikelihood(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Loss of given answers: as of lmms-eval's other models, the mean over tokens, which its tasks want lowest.

        Args:
            requests: `args` are the question, the answer or a function of the record, `doc_to_visual`, the number of
                the record, task and split.

        Returns:
            The loss of each answer and its end token, and whether greedy decoding would give exactly this answer.

        Raises:
            NotImplementedError: the checkpoint is neither a PaLI-3 nor a PaliGemma.
        """
        if not isinstance(self.processor, PrefixSuffixProcessor):
            raise NotImplementedError(f"{type(self.processor).__name__}: only PaLI-3 and PaliGemma score answers")
        results = []
        for question, answer, images_of, *where in tqdm([request.args for request in requests], unit="answer"):
            record = self.record(*where)
            text = answer if isinstance(answer, str) else str(answer(record))
            results.append(self.score(self.example(question, images_of(record), text.strip())))
        return results

    def score(self, example: Example) -> tuple[float, bool]:
        """Loss of an example's suffix, and whether each of its tokens is the most likely one."""
        batch = Collator(self.processor)([example]).to(self.model.device)
        with eval_mode(self.model):
            found: Any = self.model(**batch, output_logits=True)
        labels, best = batch["labels"], found.logits.float().argmax(-1)
        if not self.model.config.is_encoder_decoder:
            labels, best = labels[:, 1:], best[:, :-1]  # a position predicts the token behind it
        answered = labels >= 0
        return float(found.loss), bool((best[answered] == labels[answered]).all())

    def generate_until_multi_round(self, requests: Sequence[Request]) -> list[str]:
        """Raise NotImplementedError: the models answer one prompt, and hold no conversations."""
        raise NotImplementedError("PaLI-3 and PaliGemma answer one prompt about images and hold no conversations")

    def record(self, number: int, task: str, split: str) -> Any:
        """A record of a task's data."""
        return self.task_dict[task][split][number]


def as_image(value: Any) -> Image.Image:
    """An image of a task, upright and in RGB.

    Raises:
        ValueError: it is something else, such as the path of a video.
    """
    if not isinstance(value, Image.Image):
        raise ValueError(f"openpali reads images, and this task has {type(value).__name__}: {str(value)[:80]}")
    return load_image(value)


def cut(text: str, ends: str | Sequence[str] | None) -> str:
    """The text before the first of these ends."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        if end:
            text = text.split(end)[0]
    return text.strip()


# what the entry point names
MANIFEST = ModelManifest(model_id="openpali", simple_class_path=f"{__name__}.{Openpali.__name__}")
