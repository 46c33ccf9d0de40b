"""bfloat16 and float16 on the CPU, under autocast and as weights: losses, gradients and answers near float32's."""

from typing import Any

import pytest
import tiny_pali3 as pali3
import torch
from tiny_mask_vqvae import blobs, tiny
from tiny_paligemma import IMAGES, PREFIXES, SUFFIXES, tiny_batch, tiny_paligemma, tiny_paligemma_processor
from transformers import BatchFeature

from openpali import MaskVQVAE
from openpali.data.collator import Collator
from openpali.data.example import Example
from openpali.eval.answering.decoding import generate_ids
from openpali.modeling import token_loss

# type of the weights, type of autocast; both at once is what a bf16 run with weights in bfloat16 does
PRECISIONS = {
    "autocast": (torch.float32, torch.bfloat16),
    "bfloat16": (torch.bfloat16, None),
    "both": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, None),
    "autocast16": (torch.float32, torch.float16),
}
# SDPA knows no soft-cap, which Gemma 2 has; FlexAttention has no backward here
PALIGEMMA = [("gemma", "eager"), ("gemma", "sdpa"), ("gemma2", "eager")]
# T5Gemma has the eager one alone, by Transformers
PALI3 = [(kind, attention) for kind in ("t5", "t5_tied", "umt5") for attention in ("eager", "sdpa")]
PALI3 += [("t5gemma", "eager")]
# numbers of eight bits are off by up to 2**-9, here some dozens of times one behind the other; measured in bfloat16
# were 0.002, 0.07 and 0.024 (0.071 with AVX2's kernels), in float16 a tenth
LOSS, GRADIENT, LOG_P = 0.02, 0.15, 0.15


def cast(inputs: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}


def autocast(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def padded_left(batch: Any) -> dict[str, torch.Tensor]:
    """The padding of each row moved to its front."""
    moved = {key: value.clone() for key, value in batch.items()}
    for row, mask in enumerate(batch["attention_mask"]):
        for key in moved.keys() & {"input_ids", "attention_mask", "token_type_ids", "labels"}:
            if len(moved[key][row]) == len(mask):
                moved[key][row] = moved[key][row].roll(int((mask == 0).sum()))
    assert not bool(moved["attention_mask"][:, 0].all())
    return moved


def step(model: Any, batch: Any, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and the gradients of all parameters as one vector."""
    model.train().zero_grad()
    with autocast(dtype):
        loss = model(**batch).loss
    loss.backward()
    model.eval()
    return loss.detach(), torch.cat([parameter.grad.flatten().double() for parameter in model.parameters()])


def check_step(model: Any, batches: list[Any], precision: str) -> None:
    """Loss and gradients of each batch against those of the same model in float32."""
    weights, dtype = PRECISIONS[precision]
    wanted = [step(model, batch) for batch in batches]
    model.to(weights)
    for batch, (loss, gradients) in zip(batches, wanted):
        found, slopes = step(model, cast(batch, weights), dtype)
        assert found.dtype == torch.float32
        assert abs(float(found / loss) - 1) < LOSS
        assert float((slopes - gradients).norm() / gradients.norm()) < GRADIENT


def check_answers(model: Any, inputs: Any, precision: str, log_p: Any) -> None:
    """Answers by greedy decoding and both beam searches are as likely as they say, by the model in float32."""
    weights, dtype = PRECISIONS[precision]
    for beams in (1, 3):
        model.to(weights)
        with torch.no_grad(), autocast(dtype):
            ids, found = generate_ids(model, BatchFeature(cast(inputs, weights)), 5, beams, True)
            theirs = model.generate(
                **cast(inputs, weights), max_new_tokens=5, num_beams=3, do_sample=False, output_scores=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        assert theirs.sequences_scores.isfinite().all()
        assert found is not None
        assert found.isfinite().all()
        ends = (ids == model.generation_config.eos_token_id).int()
        generated = ends.cumsum(1) - ends == 0
        with torch.no_grad():
            torch.testing.assert_close(found[generated], log_p(model.float(), ids)[generated], atol=LOG_P, rtol=0)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kind", "attention"), PALI3)
def test_pali3(kind, attention, precision):
    model = pali3.tiny_pali3(kind)
    model.set_attn_implementation({"text_config": attention})
    batch = pali3.tiny_batch(3, words=8)
    batch["input_ids"][1, -3:], batch["attention_mask"][1, -3:] = pali3.PAD, 0
    left = padded_left(batch)
    check_step(model, [batch, left], precision)
    inputs = pali3.without(left, "labels")

    def log_p(model: Any, ids: torch.Tensor) -> torch.Tensor:
        decoder_ids = torch.cat([torch.full_like(ids[:, :1], model.config.decoder_start_token_id), ids[:, :-1]], dim=1)
        logits = model(**cast(inputs, torch.float32), decoder_input_ids=decoder_ids).logits
        return logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]

    check_answers(pali3.tiny_pali3(kind), inputs, precision, log_p)


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_paligemma_processor(tiny_tokenizer)


@pytest.fixture
def packed(processor):
    examples = [Example(str(i), "plain", (IMAGES[i],), PREFIXES[i], SUFFIXES[i]) for i in range(4)]
    return Collator(processor, pack_length=40)(examples)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kind", "attention"), PALIGEMMA)
def test_paligemma(processor, packed, kind, attention, precision):
    batch = tiny_batch(processor)
    model = tiny_paligemma(kind, processor, attention=attention)
    check_step(model, [batch, padded_left(batch), packed], precision)

    inputs = processor(images=[[image] for image in IMAGES], text=PREFIXES, return_tensors="pt", padding=True)
    inputs = {key: value for key, value in inputs.items() if key != "labels"}
    assert not bool(inputs["attention_mask"][:, 0].all())

    def log_p(model: Any, ids: torch.Tensor) -> torch.Tensor:
        length, whole = inputs["input_ids"].shape[1], cast(inputs, torch.float32)
        for key, values in {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0 + 1}.items():
            whole[key] = torch.cat([whole[key], values], dim=1)
        logits = model(**whole, labels=whole["input_ids"], output_logits=True).logits[:, length - 1 : -1]
        cap = model.config.text_config.to_dict().get("final_logit_softcapping")
        logits = cap * torch.tanh(logits / cap) if cap else logits
        return logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]

    check_answers(tiny_paligemma(kind, processor, attention=attention), inputs, precision, log_p)


def test_flex_attention_of_packed_sequences_with_soft_caps(processor, packed):
    wanted = tiny_paligemma("gemma2", processor, attention="eager")(**packed).loss
    model = tiny_paligemma("gemma2", processor, attention="flex_attention").to(torch.bfloat16)
    with torch.no_grad():
        found = model(**cast(packed, torch.bfloat16)).loss
    assert abs(float(found / wanted) - 1) < LOSS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", pali3.KINDS)
def test_checkpoints_load_and_save_in_half_precision(kind, dtype, tmp_path):
    pali3.tiny_pali3(kind).save_pretrained(tmp_path / "whole")
    cls = type(pali3.tiny_pali3(kind))
    cls.from_pretrained(tmp_path / "whole", dtype=dtype).save_pretrained(tmp_path / "half")
    model = cls.from_pretrained(tmp_path / "half")
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype != dtype}
    # T5's last layers of its blocks overflow in float16: Transformers keeps them wide
    assert all(name.endswith(".wo.weight") for name in wide)
    assert bool(wide) == (dtype == torch.float16 and kind != "t5gemma")
    batch = pali3.tiny_batch()
    wanted = pali3.tiny_pali3(kind)(**batch).loss
    assert abs(float(model(**cast(batch, dtype)).loss / wanted) - 1) < LOSS


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_gradients_summed_over_chunks_lose_nothing(monkeypatch, softcap):
    generator = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(16, 32, generator=generator), torch.randn(30_000, 32, generator=generator)
    targets = torch.randint(0, 30_000, (16,), generator=generator)

    def slope(dtype: torch.dtype, chunk: int) -> torch.Tensor:
        # thirty chunks of a thousand rows, or one
        monkeypatch.setattr(token_loss, "CHUNK_LOGITS", chunk)
        leaf = hidden.to(dtype).requires_grad_()
        token_loss.token_cross_entropy(leaf, table.to(dtype) / 6, targets, softcap=softcap).mean().backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        return leaf.grad.double()

    wanted = slope(torch.float64, 1 << 24)
    one, thirty = ((slope(torch.bfloat16, chunk) - wanted).norm() for chunk in (1 << 24, 1))
    assert thirty < 1.3 * one


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mask_codec(tmp_path, precision):
    weights, dtype = PRECISIONS[precision]
    masks = blobs(64)
    mask_vqvae = tiny().train()
    # the first batch fills the codebook
    mask_vqvae(masks)
    mask_vqvae.eval().save_pretrained(tmp_path)
    wanted = mask_vqvae(masks)
    half = MaskVQVAE.from_pretrained(tmp_path, dtype=weights).eval()
    assert half._vq_vae._embedding.dtype == torch.float32
    with autocast(dtype):
        found, codes = half(masks), half.encode(masks)
    assert found.loss.dtype == torch.float32
    assert abs(float(found.loss / wanted.loss) - 1) < LOSS
    assert float((codes == wanted.codes).float().mean()) > 0.98
    before = half._vq_vae._embedding.clone()
    half.train()
    with autocast(dtype):
        half(masks).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())
    assert not torch.equal(half._vq_vae._embedding, before)


def test_the_nearest_code_does_not_depend_on_autocast():
    codebook = tiny()._vq_vae
    vectors = torch.randn(5000, 5, generator=torch.Generator().manual_seed(0))
    wanted = codebook.nearest(vectors)
    with autocast(torch.bfloat16):
        assert torch.equal(codebook.nearest(vectors), wanted)


def test_a_codebook_that_was_cast_still_answers_and_refuses_to_learn():
    mask_vqvae = tiny().to(torch.bfloat16).eval()
    assert mask_vqvae.decode(mask_vqvae.encode(blobs(4))).isfinite().all()
    with pytest.raises(ValueError, match="a codebook in torch.bfloat16 learns nothing: load the mask VQ-VAE"):
        mask_vqvae.train()(blobs(4))
