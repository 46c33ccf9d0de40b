import pytest
import torch

from openpali.modeling import token_loss
from openpali.modeling.token_loss import per_example_loss

VOCABULARY, WIDTH = 2500, 6


def plain_loss(hidden, weight, labels, epsilon, softcap):
    """The definition, token by token, in float64."""
    logits = hidden.double() @ weight.double().T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    vocabulary = weight.shape[0]
    examples = []
    for row_log_p, row in zip(log_p, labels):
        tokens = []
        for token_log_p, target in zip(row_log_p, row.tolist()):
            if target != -100:
                others = token_log_p.sum() - token_log_p[target]
                tokens.append(-(1 - epsilon) * token_log_p[target] - epsilon / (vocabulary - 1) * others)
        examples.append(torch.stack(tokens).mean() if tokens else log_p.sum() * 0)
    return torch.stack(examples).mean()


@pytest.fixture
def problem():
    torch.manual_seed(0)
    hidden = torch.randn(3, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, requires_grad=True)
    # one, three and no supervised tokens; targets in the first, the middle and the last chunk
    labels = torch.tensor([[2, -100, -100, -100], [1023, 1024, -100, 2499], [-100] * 4])
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_logits", [1, 1 << 24], ids=["chunks", "whole"])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_loss_and_gradients_equal_the_plain_formula(problem, epsilon, softcap, chunk_logits, monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK_LOGITS", chunk_logits)
    hidden, weight, labels = problem
    loss = per_example_loss(hidden, weight, labels, epsilon, softcap)
    expected = plain_loss(hidden, weight, labels, epsilon, softcap)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x, (hidden, weight)) for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_vocabulary_is_cut_into_chunks_of_bounded_size(problem, monkeypatch):
    monkeypatch.setattr(token_loss, "CHUNK_LOGITS", 1)
    sizes = [rows.shape[0] for _, rows in token_loss.vocabulary_chunks(problem[1], tokens=4)]
    assert sizes == [1024, 1024, 452]


def test_a_long_answer_weighs_no_more_than_a_short_one(problem):
    hidden, weight, labels = problem
    both = per_example_loss(hidden[:2], weight, labels[:2])
    each = [per_example_loss(hidden[i : i + 1], weight, labels[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(both, torch.stack(each).mean())
    tokens = per_example_loss(
        hidden[:2].reshape(8, 1, WIDTH)[[0, 4, 5, 7]], weight, labels[:2].reshape(8, 1)[[0, 4, 5, 7]]
    )
    assert not torch.allclose(both, tokens)


def test_without_any_label_loss_and_gradients_are_zero(problem):
    hidden, weight, labels = problem
    loss = per_example_loss(hidden, weight, torch.full_like(labels, -100), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().sum() == 0
    assert weight.grad.abs().sum() == 0


def test_bfloat16_states_are_summed_in_float32(problem):
    hidden, weight, labels = (x.detach() for x in problem)
    loss = per_example_loss(hidden.bfloat16(), weight.bfloat16(), labels)
    expected = plain_loss(hidden.bfloat16(), weight.bfloat16(), labels, 0.0, None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=5e-3, atol=0)


def test_under_autocast_gradients_come_in_the_parameters_type(problem):
    hidden, weight, labels = (x.detach() for x in problem)
    hidden, weight = hidden.float().requires_grad_(), weight.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = per_example_loss(hidden, weight, labels)
    loss.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
    expected = plain_loss(hidden, weight, labels, 0.0, None)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-2, atol=0)
