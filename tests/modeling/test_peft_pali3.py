"""Adapters of peft on PaLI-3, as on any encoder-decoder."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_pali3 import IMAGE, IMAGE_TOKENS, KINDS, SIDE, tiny_pali3

TARGETS = {"t5gemma": ["q_proj", "v_proj"]}


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.tensor([[IMAGE] * IMAGE_TOKENS + [5, 6, 1]]),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=generator),
        "labels": torch.tensor([[7, 8, 1]]),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_saves_and_merges(kind, tmp_path):
    targets = TARGETS.get(kind, ["q", "v"])
    model = get_peft_model(tiny_pali3(kind), LoraConfig(r=2, target_modules=targets, task_type="SEQ_2_SEQ_LM"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    before = model(**batch()).loss
    before.backward()
    grads = {name for name, p in model.named_parameters() if p.grad is not None}
    assert grads
    assert all("lora" in name for name in grads)
    optimizer.step()
    after = model(**batch()).loss
    assert after < before

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_pali3(kind), tmp_path)
    assert torch.allclose(loaded(**batch()).loss, after, atol=1e-6)
    merged = loaded.merge_and_unload()
    assert torch.allclose(merged(**batch()).loss, after, atol=1e-5)
    inputs = {key: value for key, value in batch().items() if key != "labels"}
    answer = model.eval().generate(**inputs, max_new_tokens=3)
    assert torch.equal(merged.eval().generate(**inputs, max_new_tokens=3), answer)
