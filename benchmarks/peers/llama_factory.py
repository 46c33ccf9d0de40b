"""LLaMA-Factory's supervised fine-tuning with its template `paligemma`: the trainer that its own program builds."""

import contextlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

from llamafactory.hparams import get_train_args
from llamafactory.train.sft import workflow
from probes import Case, ask
from records import records, save_images
from transformers import PaliGemmaForConditionalGeneration


class Built(BaseException):
    """Thrown in place of training."""


def data_folder(folder: Path) -> str:
    """The records as its `mllm_demo.json`, and the `dataset_info.json` that names them."""
    paths = save_images(folder)
    rows = []
    for record, path in zip(records(), paths):
        asked = {"role": "user", "content": "<image>" + record["prefix"]}
        answer = {"role": "assistant", "content": record["suffix"]}
        rows.append({"messages": [asked, answer], "images": [str(path)]})
    (folder / "records.json").write_text(json.dumps(rows))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    info = {"records": {"file_name": "records.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return str(folder)


def variant(**options: Any) -> tuple[Any, Any]:
    """`build` and `load` with options of its YAML file."""

    def build(case: Case) -> Any:
        fields = case.arguments() | {"model_name_or_path": case.model, "stage": "sft", "do_train": True}
        fields |= {"dataset": "records", "dataset_dir": data_folder(Path(case.output).absolute().with_name("data"))}
        fields |= {"template": "paligemma", "overwrite_cache": True, "preprocessing_num_workers": 1} | options
        model_args, data_args, args, tuning_args, generating_args = get_train_args(fields)
        found: list[Any] = []

        def stop(trainer: Any, *_: Any, **__: Any) -> None:
            found.append(trainer)
            raise Built

        with mock.patch.object(workflow.CustomSeq2SeqTrainer, "train", stop), contextlib.suppress(Built):
            workflow.run_sft(model_args, data_args, args, tuning_args, generating_args)
        return found[0]

    return build, lambda folder, case: PaliGemmaForConditionalGeneration.from_pretrained(folder)


if __name__ == "__main__":
    ask({"full": variant(finetuning_type="full")}, ["llamafactory", "transformers", "accelerate", "torch"])
