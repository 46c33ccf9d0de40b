import pytest
import torch
from tiny_paligemma import IMAGES, PREFIXES, SUFFIXES, tiny_paligemma, tiny_paligemma_processor

from openpali.data.collator import Collator
from openpali.data.example import Example

EXAMPLES = [Example(str(i), "plain", (IMAGES[i],), PREFIXES[i], SUFFIXES[i]) for i in range(4)]
# two images, and a text alone
EXAMPLES += [Example("4", "plain", (IMAGES[1], IMAGES[0]), "a dog", "en"), Example("5", "plain", (), "cats", "a")]
BACKENDS = [("gemma", "eager"), ("gemma", "sdpa"), ("gemma2", "eager")]


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


def step(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss_on_prefix", [False, True])
@pytest.mark.parametrize("pack_length", [20, 33, 200])
@pytest.mark.parametrize(("kind", "backend"), BACKENDS)
def test_loss_and_gradients_are_those_of_the_unpacked_batch(processor, kind, backend, pack_length, loss_on_prefix):
    model = tiny_paligemma(kind, processor, attention=backend)
    options = {"loss_on_prefix": loss_on_prefix}
    plain = Collator(processor, **options)(EXAMPLES)
    packed = Collator(processor, pack_length=pack_length, **options)(EXAMPLES)
    assert len(packed["input_ids"]) < len(EXAMPLES) or pack_length == 20
    loss, grads = step(model, plain)
    packed_loss, packed_grads = step(model, packed)
    torch.testing.assert_close(packed_loss, loss, rtol=1e-5, atol=0)
    # gradients that are zero in exact arithmetic, as the keys' biases have, are noise in both
    noise = 1e-7 * torch.stack([grad.norm() for grad in grads.values()]).max()
    for name, grad in grads.items():
        assert (packed_grads[name] - grad).norm() <= 1e-5 * grad.norm() + noise, name


def test_flex_attention_packs_alike(processor):
    packed = Collator(processor, pack_length=40)(EXAMPLES)
    with torch.no_grad():
        flex, eager = (
            tiny_paligemma("gemma2", processor, attention=name)(**packed, output_logits=True)
            for name in ("flex_attention", "eager")
        )
    torch.testing.assert_close(flex.loss, eager.loss)
    real = packed["sequence_ids"] >= 0
    torch.testing.assert_close(flex.logits[real], eager.logits[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_nothing_is_seen_across_examples_nor_of_a_later_suffix(processor, backend):
    packed = dict(Collator(processor, pack_length=200)(EXAMPLES))
    model = tiny_paligemma("gemma", processor, attention=backend)
    owner, columns = packed["sequence_ids"][0], packed["labels"][0]
    with torch.no_grad():
        before = model(**packed, output_logits=True).logits[0]
        for example in range(len(EXAMPLES)):
            last = int(((owner == example) & (columns != -100)).nonzero()[-1])
            ids = packed["input_ids"].clone()
            ids[0, last] = 5
            after = model(**packed | {"input_ids": ids}, output_logits=True).logits[0]
            changed = (after != before).any(-1).nonzero().flatten().tolist()
            assert changed == [last]


def test_logits_of_a_packed_batch_without_labels(processor):
    packed = dict(Collator(processor, pack_length=40)(EXAMPLES))
    model = tiny_paligemma("gemma", processor)
    with torch.no_grad():
        expected = model(**packed, output_logits=True).logits
        packed.pop("labels")
        torch.testing.assert_close(model(**packed).logits, expected)


def test_packed_sequences_need_their_positions(processor):
    packed = dict(Collator(processor, pack_length=40)(EXAMPLES))
    packed.pop("position_ids")
    with pytest.raises(ValueError, match="start again in each example"):
        tiny_paligemma("gemma", processor)(**packed)


def test_only_training_sequences_of_paligemma_are_packed(processor, tiny_processor):
    with pytest.raises(ValueError, match="only training sequences of PaliGemma"):
        Collator(tiny_processor, pack_length=40)
    with pytest.raises(ValueError, match="only training sequences of PaliGemma"):
        Collator(processor, pack_length=40, generation=True)
