"""A checkpoint that was trained on masks keeps the mask tokenizer whose codes it writes."""

from pathlib import Path

import pytest
import torch
from custom_files import coco
from tiny_adapters import save_checkpoint
from tiny_mask_vqvae import save_codec as save_tiny

from openpali.data.masks.mask_tokenizer import DEFAULT_CODEC, codec_of, load_codec, save_codec, with_codec
from openpali.recipes import transfer


@pytest.fixture
def checkpoint(tmp_path, tiny_tokenizer):
    return save_checkpoint("paligemma", tiny_tokenizer, tmp_path / "model")


def test_it_is_found_in_the_folder_of_its_model_and_else_at_the_usual_place(checkpoint, tmp_path):
    assert codec_of(str(checkpoint)) == codec_of(None) == codec_of("no-such-name") == DEFAULT_CODEC
    own = str(save_tiny(checkpoint / "mask_vqvae"))
    assert codec_of(str(checkpoint)) == own
    segment = {"name": "segment", "language": "en"}
    assert with_codec(segment, str(checkpoint)) == segment | {"codec": own}
    for other in ({"name": "detect"}, {"name": "refer", "boxes_only": True}, {"name": "segment", "codec": "mine"}):
        assert with_codec(other, str(checkpoint)) == other


def test_a_copy_has_the_same_weights_and_is_not_made_of_itself(tmp_path):
    first = save_tiny(tmp_path / "codec")
    save_codec(str(first), tmp_path)
    save_codec(str(tmp_path / "mask_vqvae"), tmp_path)
    before, after = load_codec(str(first)).state_dict(), load_codec(str(tmp_path / "mask_vqvae")).state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_one_that_is_stored_in_16_bits_computes_in_32(tmp_path):
    load_codec(str(save_tiny(tmp_path / "codec"))).to(torch.float16).save_pretrained(tmp_path / "half")
    assert load_codec(str(tmp_path / "half")).dtype == torch.float32


def test_a_fine_tuning_on_masks_keeps_it_and_the_next_one_takes_it(checkpoint, tmp_path):
    data = coco(tmp_path / "data", 20)
    line = ["--data", str(data), "--kind", "segment", "--use_cpu", "true", "--tensorboard", "false"]
    line += ["--max_steps", "1", "--eval_steps", "1", "--eval_limit", "2", "--test_limit", "2"]
    line += ["--task.max_new_tokens", "8", "--per_device_train_batch_size", "2"]
    first, second = tmp_path / "first", tmp_path / "second"
    codec = save_tiny(tmp_path / "codec")
    transfer.main([*line, "--model", str(checkpoint), "--codec", str(codec), "--output_dir", str(first)])
    assert Path(codec_of(str(first))) == first / "mask_vqvae"
    transfer.main([*line, "--model", str(first), "--output_dir", str(second)])
    assert (second / "mask_vqvae" / "model.safetensors").is_file()
