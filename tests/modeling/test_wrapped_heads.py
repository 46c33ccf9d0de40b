"""The loss uses a wrapped LM head: adapters, weights offloaded to disk."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, get_peft_model
from tiny_pali3 import KINDS as PAIRS
from tiny_pali3 import tiny_batch as pali3_batch
from tiny_pali3 import tiny_pali3
from tiny_paligemma import KINDS as GEMMAS
from tiny_paligemma import tiny_batch, tiny_paligemma, tiny_paligemma_processor
from torch import nn

from openpali.modeling import token_loss
from openpali.modeling.token_loss import token_cross_entropy

KINDS = [*GEMMAS, *PAIRS]


@pytest.fixture
def make(tiny_tokenizer):
    def made(kind, **fields):
        if kind in GEMMAS:
            processor = tiny_paligemma_processor(tiny_tokenizer)
            return tiny_paligemma(kind, processor, **fields), dict(tiny_batch(processor))
        return tiny_pali3(kind, **fields), pali3_batch()

    return made


def in_chunks_of_20(weight, tokens):
    return ((begin, weight[begin : begin + 20]) for begin in range(0, len(weight), 20))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_called_head_gives_the_loss_and_gradients_of_a_read_one(epsilon, softcap, bias, monkeypatch):
    class Wrapped(nn.Linear):
        """Not plain: it is called."""

    torch.manual_seed(0)
    # read in three chunks
    monkeypatch.setattr(token_loss, "vocabulary_chunks", in_chunks_of_20)
    heads = [nn.Linear(8, 50, bias=bias), Wrapped(8, 50, bias=bias)]
    heads[1].load_state_dict(heads[0].state_dict())
    hidden, targets = torch.randn(7, 8), torch.randint(0, 50, (7,))
    found = []
    for head in heads:
        inputs = hidden.clone().requires_grad_()
        losses = token_cross_entropy(inputs, head, targets, epsilon, softcap)
        (losses * torch.arange(7)).sum().backward()
        found.append((losses, inputs.grad, head.weight.grad, *([head.bias.grad] if bias else [])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights(make, kind, tmp_path):
    model, batch = make(kind)
    with torch.no_grad():
        expected = model(**batch)
        # a hook brings each module's weights when it is called, and takes them away again
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
        assert model.lm_head.weight.device.type == "meta"
        found = model(**batch)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.logits, expected.logits)


@pytest.mark.parametrize("kind", ["gemma2", "t5"])
def test_weights_offloaded_to_memory_train_nothing_and_answer_the_same(make, kind):
    model, batch = make(kind)
    batch.pop("labels")
    expected = model.generate(**batch, max_new_tokens=4, do_sample=False)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False), expected)


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "t5", "t5gemma"])
def test_adapters_on_the_head_train(make, kind):
    model, batch = make(kind)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["lm_head", "q", "q_proj"], r=4))
    wrapped(**batch).loss.backward()
    gradients = {name: p.grad for name, p in wrapped.named_parameters() if "lm_head" in name and p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    # B starts at zero, so it alone has a gradient in the first step
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if "lora_B" in name)
    assert len(gradients) == 2
    before = wrapped(**batch).loss.item()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lm_head.lora_B" in name:
                parameter -= 0.1 * gradients[name]
    # what the adapter learned is in the loss
    assert wrapped(**batch).loss.item() < before


@pytest.mark.parametrize("kind", GEMMAS)
def test_shifted_labels_are_the_labels_one_place_earlier(make, kind):
    model, batch = make(kind)
    expected = model(**batch).loss
    labels = batch.pop("labels")
    shifted = torch.full_like(labels, -100)
    shifted[:, :-1] = labels[:, 1:]
    torch.testing.assert_close(model(**batch, shift_labels=shifted).loss, expected)


def test_an_encoder_decoder_refuses_shifted_labels(make):
    model, batch = make("t5")
    with pytest.raises(ValueError, match="decoder-only"):
        model(**batch, shift_labels=batch["labels"])
