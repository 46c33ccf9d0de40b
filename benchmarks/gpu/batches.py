"""Batches of random images and tokens, on the device.

Shapes: `B` examples, `P` tokens of an image, `L` tokens of a sequence, `S` tokens of a suffix.
"""

import random
from typing import Any

import torch

from openpali.data.packing import pack, packed_batch

PREFIX, SUFFIX = 96, 32
# suffix lengths of a mixture, by share: mostly short answers, some captions and detections, a few pages of text
MIXTURE = [(0.6, (2, 8)), (0.3, (10, 40)), (0.1, (80, 256))]

Batch = dict[str, torch.Tensor]


def pixels(model: Any, count: int) -> torch.Tensor:
    """Random images, float[count, 3, H, W], in the type of the model."""
    side = model.config.vision_config.image_size
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return torch.rand(count, 3, side, side, device=like.device, dtype=like.dtype) * 2 - 1


def image_tokens(model: Any) -> int:
    """P."""
    vision = model.config.vision_config
    return (vision.image_size // vision.patch_size) ** 2


def paligemma_batch(model: Any, suffixes: list[int], packed: int | None = None) -> Batch:
    """Sequences of an image, a prefix of 96 tokens and suffixes of these lengths.

    Args:
        model: a PaliGemma.
        suffixes: length of each example's suffix, B of them.
        packed: tokens of a row of several examples; None for one example a row, padded.
    """
    images, count, token = image_tokens(model), len(suffixes), model.config.image_token_id
    rows = []
    for length in suffixes:
        words = torch.randint(3, token, (PREFIX + length,)).tolist()
        types = [0] * (images + PREFIX) + [1] * length
        labels = [-100] * (images + PREFIX) + words[PREFIX:]
        rows.append({"input_ids": [token] * images + words, "token_type_ids": types, "labels": labels})
    picture = pixels(model, count)
    if packed is not None:
        lengths = [len(row["input_ids"]) for row in rows]
        features = {key: [row[key] for row in rows] for key in rows[0]} | {"pixel_values": list(picture)}
        layout = list(pack(lengths, packed))
        return dict(packed_batch(layout, features, [1] * count, 0).to(picture.device))
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "token_type_ids": 1, "labels": -100}
    data = {key: [row[key] + [value] * (width - len(row[key])) for row in rows] for key, value in fill.items()}
    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    found = {
        key: torch.tensor(value, device=picture.device) for key, value in (data | {"attention_mask": mask}).items()
    }
    return found | {"pixel_values": picture}


def mixed_suffixes(count: int) -> list[int]:
    """Suffix lengths drawn from `MIXTURE`, the same in every run."""
    rng = random.Random(0)
    shares, ranges = [share for share, _ in MIXTURE], [lengths for _, lengths in MIXTURE]
    return [rng.randint(*rng.choices(ranges, shares)[0]) for _ in range(count)]


def pali3_batch(model: Any, count: int) -> Batch:
    """Sequences of an image and a prefix of 96 tokens, and suffixes of 32."""
    token, picture = model.config.image_token_id, pixels(model, count)
    words = torch.randint(3, token, (count, PREFIX + SUFFIX), device=picture.device)
    images = torch.full((count, image_tokens(model)), token, device=picture.device)
    ids = torch.cat([images, words[:, :PREFIX]], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": words[:, PREFIX:],
        "pixel_values": picture,
    }


def siglip_batch(model: Any, count: int) -> Batch:
    """Images and texts of the full length."""
    text, picture = model.config.text_config, pixels(model, count)
    shape = (count, text.max_position_embeddings)
    return {"pixel_values": picture, "input_ids": torch.randint(3, text.vocab_size, shape, device=picture.device)}
