"""LoRA by PEFT on Transformers' class, under its Trainer: adapters alone, or beside a trained projector."""

from typing import Any

import transformers_trainer
from peft import LoraConfig, PeftModel, get_peft_model
from probes import Case, ask
from transformers import PaliGemmaForConditionalGeneration

# of the notebook "Fine-tune PaliGemma"
TARGETS = ["q_proj", "o_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]


def variant(**options: Any) -> tuple[Any, Any]:
    """`build` and `load` with options of `LoraConfig`."""

    def build(case: Case) -> Any:
        trainer = transformers_trainer.build(case)
        config = LoraConfig(r=8, target_modules=TARGETS, task_type="CAUSAL_LM", **options)
        adapted: Any = get_peft_model(trainer.model, config)
        data: Any = {"train_dataset": trainer.train_dataset, "data_collator": trainer.data_collator}
        return transformers_trainer.Trainer(model=adapted, args=trainer.args, **data)

    def load(folder: str, case: Case) -> Any:
        base: Any = PaliGemmaForConditionalGeneration.from_pretrained(case.model)
        return PeftModel.from_pretrained(base, folder)

    return build, load


VARIANTS = {"lora": variant(), "lora and projector": variant(modules_to_save=["multi_modal_projector"])}

if __name__ == "__main__":
    ask(VARIANTS, ["peft", "transformers", "accelerate", "torch"])
