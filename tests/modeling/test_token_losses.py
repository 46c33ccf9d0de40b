"""Losses of single tokens of both families: those of the logits, and their mean is the loss."""

import pytest
import torch
from tiny_paligemma import tiny_batch

from openpali.modeling.token_loss import IGNORE_INDEX


@pytest.fixture(params=["pali3", "paligemma"])
def parts(request):
    if request.param == "pali3":
        return request.getfixturevalue("tiny_model"), request.getfixturevalue("tiny_processor")
    return request.getfixturevalue("tiny_paligemma")


def test_losses_of_tokens_are_those_of_the_logits(parts):
    model, processor = parts
    batch = tiny_batch(processor)
    labels = batch["labels"]
    # another target of the first token of each answer
    second = torch.full_like(labels, IGNORE_INDEX)
    first = (labels != IGNORE_INDEX).int().argmax(1)
    second[torch.arange(len(labels)), first] = 7
    given = (
        {}
        if not model.config.is_encoder_decoder
        else {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
    )
    found = model(**batch, **given, token_losses=True, second_labels=second, label_smoothing=0.3)
    plain = model(**batch)
    # label smoothing does not count
    assert found.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert torch.allclose(found.example_losses, plain.example_losses, rtol=1e-5)
    shift = 0 if model.config.is_encoder_decoder else 1
    log_p = plain.logits.log_softmax(-1)
    for row, targets, others in zip(range(len(labels)), labels, second):
        for place in (targets != IGNORE_INDEX).nonzero()[:, 0].tolist():
            at = (row, place - shift)
            assert found.token_losses[at].item() == pytest.approx(-log_p[at][targets[place]].item(), rel=1e-4)
            if others[place] != IGNORE_INDEX:
                assert found.second_losses[at].item() == pytest.approx(-log_p[at][7].item(), rel=1e-4)
    assert (found.token_losses > 0).sum() == (labels != IGNORE_INDEX).sum()
    assert (found.second_losses > 0).sum() == len(labels)
    found.token_losses.sum().backward()
    assert all(p.grad is not None for p in model.lm_head.parameters())
    assert plain.get("token_losses") is None
