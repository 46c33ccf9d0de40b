import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip import SiglipTextConfig, SiglipVisionConfig

from openpali.modeling.contrastive_loss import initialize_logits, sigmoid_loss, softmax_loss

FIXTURES = Path(__file__).parents[1] / "fixtures"
LEAVES = ("images", "texts", "t", "b")


def embeddings(n: int, m: int | None = None, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    images, texts = (torch.randn(k, width, generator=generator, dtype=torch.double) for k in (n, m or n))
    return torch.nn.functional.normalize(images), torch.nn.functional.normalize(texts)


def test_equals_the_pseudocode_of_the_paper_pair_by_pair():
    images, texts = embeddings(5)
    t, b = torch.tensor([1.3], dtype=torch.double), torch.tensor([-2.0], dtype=torch.double)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            logit = math.exp(1.3) * float(images[i] @ texts[j]) - 2.0
            sign = 1 if i == j else -1
            expected += math.log1p(math.exp(-sign * logit))
    assert sigmoid_loss(images, texts, t, b).item() == pytest.approx(expected / 5, rel=1e-12)


def test_equals_the_loss_of_siglip_model():
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = SiglipTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
    )
    model = SiglipModel(SiglipConfig(vision_config=vision.to_dict(), text_config=text.to_dict())).eval()
    initialize_logits(model.logit_scale, model.logit_bias)
    outputs = model(pixel_values=torch.randn(3, 3, 16, 16), input_ids=torch.randint(2, 32, (3, 4)), return_loss=True)
    ours = sigmoid_loss(outputs.image_embeds, outputs.text_embeds, model.logit_scale, model.logit_bias)
    torch.testing.assert_close(ours, outputs.loss)
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias.item() == -10


def scalars(t: float = 0.7, b: float = -1.5) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor([x], dtype=torch.double, requires_grad=True) for x in (t, b))  # pyright: ignore


def keys() -> tuple[torch.Tensor, torch.Tensor]:
    """Four images and four texts; the first two texts are the same one, and the last image has two."""
    return torch.tensor([[7, -1], [7, -1], [2, -1], [5, 2]]), torch.tensor([7, 7, 2, 5])


TRUE = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)


def plain_softmax_loss(images: torch.Tensor, texts: torch.Tensor, t: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    logits = images @ texts.T * t.exp()
    rows, columns = true / true.sum(1, keepdim=True), true / true.sum(0, keepdim=True)
    by_image = -(rows * logits.log_softmax(1)).sum(1).mean()
    return (by_image - (columns * logits.log_softmax(0)).sum(0).mean()) / 2


def test_equal_captions_are_positives_when_the_caller_says_so():
    images, texts = embeddings(4)
    t, b = scalars(0.0, 0.0)
    z = torch.where(TRUE, 1.0, -1.0)
    expected = torch.log1p(torch.exp(-z * (images @ texts.T))).sum() / 4
    torch.testing.assert_close(sigmoid_loss(images, texts, t, b, *keys()), expected)
    assert not torch.isclose(sigmoid_loss(images, texts, t, b), expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3])
@pytest.mark.parametrize("with_keys", [False, True])
def test_gradients_are_those_of_finite_differences(chunk_size, with_keys):
    images, texts = (x.requires_grad_() for x in embeddings(4))
    t, b = scalars()
    more: Any = (*(keys() if with_keys else (None, None)), chunk_size)
    assert torch.autograd.gradcheck(lambda *x: sigmoid_loss(*x, *more), (images, texts, t, b))
    assert torch.autograd.gradcheck(lambda *x: softmax_loss(*x, *more), (images, texts, t))


def test_softmax_loss_equals_two_cross_entropies():
    images, texts = embeddings(4)
    t, _ = scalars()
    expected = plain_softmax_loss(images, texts, t, torch.eye(4, dtype=torch.bool))
    torch.testing.assert_close(softmax_loss(images, texts, t, chunk_size=3), expected)
    targets = torch.arange(4)
    logits = images @ texts.T * t.exp()
    stock = (torch.nn.functional.cross_entropy(x, targets) for x in (logits, logits.T))
    torch.testing.assert_close(expected, sum(stock) / 2)
    torch.testing.assert_close(
        softmax_loss(images, texts, t, *keys()), plain_softmax_loss(images, texts, t, TRUE), rtol=1e-12, atol=0
    )


def test_more_texts_than_images():
    images, texts = embeddings(2, 5)
    t, b = scalars(0.0, 0.0)
    image_keys, text_keys = torch.tensor([[0, 3], [1, -1]]), torch.arange(5)
    z = -torch.ones(2, 5)
    z[0, 0] = z[0, 3] = z[1, 1] = 1
    expected = torch.log1p(torch.exp(-z * (images @ texts.T))).sum() / 2
    torch.testing.assert_close(sigmoid_loss(images, texts, t, b, image_keys, text_keys), expected)
    assert torch.isfinite(softmax_loss(images, texts, t, image_keys, text_keys))
    with pytest.raises(ValueError, match="2 images and 5 texts need keys"):
        sigmoid_loss(images, texts, t, b)
    with pytest.raises(ValueError, match=r"must be int\[2, k\] and int\[5\]"):
        sigmoid_loss(images, texts, t, b, text_keys, image_keys)
    with pytest.raises(ValueError, match="both image_keys and text_keys"):
        softmax_loss(images, texts, t, image_keys)


def test_half_precision_embeddings_are_summed_in_single_precision():
    images, texts = (x.bfloat16().requires_grad_() for x in embeddings(64))
    t, b = (x.detach().float().requires_grad_() for x in scalars(2.3, -10.0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = sigmoid_loss(images, texts, t, b)
    loss.backward()
    wide = sigmoid_loss(images.double(), texts.double(), t.double(), b.double())
    assert loss.dtype == torch.float32
    assert images.grad is not None
    assert images.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(wide.item(), rel=1e-6)


def test_no_block_of_logits_is_kept_for_backward():
    images, texts = (x.float().requires_grad_() for x in embeddings(512))
    t, b = (x.detach().float().requires_grad_() for x in scalars())
    sizes: list[int] = []

    def note(saved: torch.Tensor) -> torch.Tensor:
        sizes.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        sigmoid_loss(images, texts, t, b, chunk_size=64)
        softmax_loss(images, texts, t, chunk_size=64)
    assert sizes
    assert max(sizes) <= images.numel()


def test_the_global_loss_of_big_vision_is_the_mean_of_its_losses_per_device():
    with np.load(FIXTURES / "siglip_chunked.npz") as file:
        images, texts = (torch.from_numpy(file[key]).double() for key in ("zimg", "ztxt"))
        t, b = (torch.tensor([float(file[key])], dtype=torch.double) for key in ("t", "b"))
        expected, per_device = float(file["global"]), file["per_device4"]
    assert sigmoid_loss(images, texts, t.log(), b, chunk_size=3).item() == pytest.approx(expected, rel=1e-6)
    keys = torch.arange(8)
    shares = [
        sigmoid_loss(images[i : i + 2], texts, t.log(), b, keys[i : i + 2, None], keys).item() for i in range(0, 8, 2)
    ]
    assert shares == pytest.approx(per_device.tolist(), rel=1e-5)


def on_one_process(rank: int, rows: list[int], folder: str, inputs: dict[str, torch.Tensor]) -> None:
    """One of several processes, each with its rows of the batch; leaves its losses and gradients in files."""
    # a forked process has none of the threads of the one that it was forked from
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(rows))
    own = slice(sum(rows[:rank]), sum(rows[: rank + 1]))
    keys = (inputs["image_keys"][own], inputs["text_keys"][own]) if "image_keys" in inputs else (None, None)
    for kind in ("sigmoid", "softmax"):
        leaves = {key: inputs[key][own if key in ("images", "texts") else slice(None)].clone() for key in LEAVES}
        torch.save(loss_and_gradients(kind, leaves, (*keys, 2)), f"{folder}/{kind}-{rank}.pt")
    dist.destroy_process_group()


def loss_and_gradients(kind: str, leaves: dict[str, torch.Tensor], more: tuple) -> dict[str, torch.Tensor]:
    leaves = {key: leaf.requires_grad_() for key, leaf in leaves.items() if key != "b" or kind == "sigmoid"}
    function: Any = sigmoid_loss if kind == "sigmoid" else softmax_loss
    loss = function(*leaves.values(), *more)
    loss.backward()
    return {"loss": loss.detach()} | {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize(
    ("rows", "with_keys"), [([8], True), ([4, 4], False), ([2, 2, 2, 2], True), ([3, 1, 3, 1], True)]
)
def test_a_ring_of_processes_has_the_loss_and_the_gradients_of_one(tmp_path, rows, with_keys):
    images, texts = embeddings(8)
    t, b = scalars()
    inputs = {"images": images, "texts": texts, "t": t.detach(), "b": b.detach()}
    if with_keys:
        texts[5] = texts[0]
        text_keys = torch.tensor([0, 1, 2, 3, 4, 0, 6, 7])
        inputs["image_keys"] = torch.stack([text_keys, torch.tensor([-1, -1, 6, -1, -1, -1, -1, 1])], 1)
        inputs["text_keys"] = text_keys
    # forked: each would otherwise import torch again, for seconds
    mp.start_processes(on_one_process, (rows, str(tmp_path), inputs), len(rows), start_method="fork")  # pyright: ignore
    for kind in ("sigmoid", "softmax"):
        found = [torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(len(rows))]
        more = (inputs.get("image_keys"), inputs.get("text_keys"))
        one = loss_and_gradients(kind, {key: inputs[key].clone() for key in LEAVES}, more)
        assert len(one) == (5 if kind == "sigmoid" else 4)
        # what data-parallel training does: gradients of all processes, averaged
        for key, expected in one.items():
            stack = torch.cat if key in ("images", "texts") else torch.stack
            ours = stack([x[key] for x in found])
            ours = ours / len(rows) if key in ("images", "texts") else ours.mean(0)
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_ring_of_embeddings_in_half_precision_is_near_one_process_in_double(tmp_path, dtype):
    images, texts = embeddings(8)
    t, b = (x.detach() for x in scalars(2.3, -10.0))
    inputs = {"images": images.to(dtype), "texts": texts.to(dtype), "t": t.float(), "b": b.float()}
    mp.start_processes(on_one_process, ([3, 5], str(tmp_path), inputs), 2, start_method="fork")  # pyright: ignore
    for kind in ("sigmoid", "softmax"):
        found = [torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)]
        one = loss_and_gradients(kind, {"images": images.clone(), "texts": texts.clone(), "t": t, "b": b}, ())
        assert sum(float(x["loss"]) for x in found) / 2 == pytest.approx(float(one["loss"]), rel=0.02)
        for key in ("images", "texts"):
            ours = torch.cat([x[key] for x in found])
            assert ours.dtype == dtype
            assert float((ours.double() / 2 - one[key]).norm() / one[key].norm()) < 0.02
