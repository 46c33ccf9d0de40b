"""SigLIP 2's losses in the whole model: each against a plain computation, and what the teacher does."""

import pytest
import torch
from tolerances import assert_same_but_rounding
from torch.nn.functional import cross_entropy, normalize

from openpali.modeling.self_distillation.configuration_siglip_pretraining import SiglipPretrainingConfig
from openpali.modeling.self_distillation.modeling_siglip_pretraining import SiglipForPretraining

SIDE, PATCH, WIDTH = 32, 8, 16
SAME = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SAME | {"image_size": SIDE, "patch_size": PATCH}
TEXT = SAME | {"vocab_size": 30, "max_position_embeddings": 6, "projection_size": WIDTH}
DECODER = SAME | {"vocab_size": 40, "max_position_embeddings": 5}


def made(**options) -> SiglipForPretraining:
    torch.manual_seed(0)
    config = {"siglip_config": {"vision_config": VISION, "text_config": TEXT}, "decoder_config": DECODER}
    config |= {"distillation": True, "prototypes": 12, "head_hidden_size": 20, "head_bottleneck_size": 8}
    model = SiglipForPretraining(SiglipPretrainingConfig(**config | options))
    model.start_teacher()
    for parameter in model.teacher.parameters():
        # so that it differs from the student
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def batch_of(seed: int = 1) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, 40, (3, 5), generator=random)
    labels[0, 3:] = 0
    return {
        "pixel_values": torch.randn(3, 3, SIDE, SIDE, generator=random),
        "input_ids": torch.randint(2, 30, (3, 6), generator=random),
        "labels": labels,
        "decoder_input_ids": torch.cat([torch.zeros(3, 1, dtype=torch.int64), labels[:, :-1]], 1),
        "global_views": torch.randn(3, 3, SIDE, SIDE, generator=random),
        "local_views": torch.randn(3, 2, 3, 16, 16, generator=random),
        "masked": torch.stack([torch.randperm(16, generator=random)[:8].sort().values for _ in range(3)]),
    }


@pytest.fixture
def model():
    return made()


def assigned(features, head, temperature, center=0.0):
    """Probabilities of prototypes, written plainly."""
    hidden = torch.nn.functional.gelu(features @ head.fc1.weight.T + head.fc1.bias)
    hidden = torch.nn.functional.gelu(hidden @ head.fc2.weight.T + head.fc2.bias) @ head.fc3.weight.T + head.fc3.bias
    logits = normalize(hidden, dim=-1) @ normalize(head.prototypes, dim=-1).T
    return ((logits - center) / temperature).softmax(-1)


def test_losses_of_pairs_are_those_of_their_own_models(model):
    batch = batch_of()
    output = model(**batch)
    with torch.no_grad():
        alone = model.siglip(batch["pixel_values"], batch["input_ids"])
        image = model.siglip.vision_model(pixel_values=batch["pixel_values"])
        hidden = model.decoder(image.last_hidden_state, batch["decoder_input_ids"])
    assert_same_but_rounding(output.parts["contrastive"], alone.loss)
    logits, rows = model.decoder.logits(hidden), []
    for row, labels in zip(logits, batch["labels"]):
        rows.append(cross_entropy(row[labels != 0], labels[labels != 0]))
    assert_same_but_rounding(output.parts["caption"], torch.stack(rows).mean())


def test_losses_of_self_distillation_by_hand(model):
    batch = batch_of()
    model.local_center.copy_(torch.linspace(-0.1, 0.1, 12))
    model.masked_center.copy_(torch.linspace(0.05, -0.05, 12))
    parts = model(**batch).parts
    with torch.no_grad():
        teacher, heads = model.teacher.vision_model, model.teacher.heads
        seen = teacher(pixel_values=batch["global_views"])
        target = assigned(seen.pooler_output, heads.local, 0.04, model.local_center)
        losses = []
        for view in range(2):
            small = model.siglip.vision_model(
                pixel_values=batch["local_views"][:, view], interpolate_pos_encoding=True
            ).pooler_output
            losses.append(-(target * assigned(small, model.heads.local, 0.1).log()).sum(-1))
        assert_same_but_rounding(parts["local"], torch.stack(losses).mean())

        target = assigned(seen.last_hidden_state, heads.masked, 0.04, model.masked_center)
        tokens = masked_by_a_hook(model, batch["global_views"], batch["masked"])
        every = -(target * assigned(tokens, model.heads.masked, 0.1).log()).sum(-1)
        assert_same_but_rounding(parts["masked"], every.gather(1, batch["masked"]).mean())


def masked_by_a_hook(model, pixel_values, masked):
    """Tokens of the stock forward, in which the patch embedding's output is replaced."""

    def replace(module, inputs, patches):
        flat = patches.flatten(2).transpose(1, 2).clone()
        for row, places in enumerate(masked.tolist()):
            flat[row, places] = model.mask_token
        return flat.transpose(1, 2).reshape(patches.shape)

    vision = model.siglip.vision_model
    hook = vision.embeddings.patch_embedding.register_forward_hook(replace)
    tokens = vision(pixel_values=pixel_values).last_hidden_state
    hook.remove()
    return tokens


def test_weights_of_the_losses():
    model = made(caption_weight=0.5, local_weight=2.0, masked_weight=0.125)
    output = model(**batch_of())
    parts = output.parts
    expected = parts["contrastive"] + 0.5 * parts["caption"] + 2 * parts["local"] + 0.125 * parts["masked"]
    assert_same_but_rounding(output.loss, expected)
    plain = {key: value for key, value in batch_of().items() if "views" not in key and key != "masked"}
    assert set(model(**plain).parts) == {"contrastive", "caption"}


def test_gradients_reach_the_student_alone(model):
    for parameter in model.teacher.parameters():
        assert not parameter.requires_grad
        # even where something else has switched them on
        parameter.requires_grad_(True)
    model(**batch_of()).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    student = {name: p.grad for name, p in model.named_parameters() if not name.startswith("teacher.")}
    without = [name for name, gradient in student.items() if gradient is None]
    assert not without
    assert student["mask_token"].abs().max() > 0


def test_teacher_starts_as_a_copy_and_follows_exactly(model):
    model.start_teacher()
    for teacher, student in model.pairs():
        assert torch.equal(teacher, student)
    before = [teacher.clone() for teacher, _ in model.pairs()]
    with torch.no_grad():
        for parameter in model.siglip.vision_model.parameters():
            parameter.add_(1.0)
    model.update_teacher(0.75)
    for old, (teacher, student) in zip(before, model.pairs(), strict=True):
        assert_same_but_rounding(teacher, 0.75 * old + 0.25 * student)
    assert int(model.late_steps) == 1
    parts = [n for n in model.state_dict() if n.startswith(("siglip.vision_model.", "heads."))]
    names = [n.removeprefix("teacher.") for n in model.state_dict() if n.startswith("teacher.")]
    assert sorted(names) == sorted(n.removeprefix("siglip.") for n in parts)


def test_centres_are_means_of_all_micro_batches_of_a_step(model):
    batches = [batch_of(1), batch_of(2)]
    for batch in batches:
        model(**batch)
    model.update_centers(0.75)
    with torch.no_grad():
        seen = [model.teacher.vision_model(pixel_values=batch["global_views"]) for batch in batches]
        heads, rows = model.teacher.heads, []
        for one, batch in zip(seen, batches):
            rows.append(
                one.last_hidden_state.gather(1, batch["masked"][..., None].expand(-1, -1, WIDTH)).flatten(0, 1)
            )
        for name, features in (("local", torch.cat([o.pooler_output for o in seen])), ("masked", torch.cat(rows))):
            head = getattr(heads, name)
            expected = 0.25 * (head(features) @ head.directions().T).mean(0)
            assert_same_but_rounding(getattr(model, f"{name}_center"), expected)
    assert model.sums == {}
    model.eval()
    model(**batches[0])
    assert model.sums == {}


def test_in_bfloat16_by_autocast(model):
    plain = model(**batch_of())
    model.sums, whole = {}, model.sums
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch_of())
    output.loss.backward()
    assert torch.isfinite(model.mask_token.grad).all()
    for name in ("local", "masked"):
        # eight bits of each feature
        torch.testing.assert_close(output.parts[name], plain.parts[name], atol=0.2, rtol=0.1)
        assert model.sums[name][0].dtype == torch.float32
        torch.testing.assert_close(model.sums[name][0], whole[name][0], atol=0.3, rtol=0.05)


def test_saved_and_loaded_with_teacher_and_centres(model, tmp_path):
    model(**batch_of())
    model.update_centers()
    model.update_teacher(0.9)
    model.save_pretrained(tmp_path)
    loaded = SiglipForPretraining.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, loaded.state_dict()[name]), name
    assert not loaded.train().teacher.training


def test_without_self_distillation_there_is_no_teacher():
    torch.manual_seed(0)
    config = SiglipPretrainingConfig(siglip_config={"vision_config": VISION, "text_config": TEXT})
    config.decoder_config.update(DECODER)
    names = {name.split(".")[0] for name in SiglipForPretraining(config).state_dict()}
    assert names == {"siglip", "decoder"}
