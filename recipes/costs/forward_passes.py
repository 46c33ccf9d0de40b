"""The forward pass of a training step of every kind of model; `activation_memory` runs them.

Texts have their maximal length, and each example has one image. Losses are left out: their memory is small or, with
a vocabulary, known from the size of chunks (`modeling/token_loss.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from openpali.modeling.image_patches import is_naflex, most_image_tokens


@dataclass(frozen=True)
class Lengths:
    """Maximal numbers of tokens of an example.

    Attributes:
        prompt: of the prompt; of a SigLIP the whole text.
        target: of the answer.
        texts: number of texts for each image of a SigLIP.
    """

    prompt: int
    target: int
    texts: int = 1


def empty_images(vision: Any, examples: int) -> torch.Tensor:
    """float[examples, 3, H, W]."""
    return torch.empty(examples, 3, vision.image_size, vision.image_size)


def image_features(tower: Any, vision: Any, examples: int) -> torch.Tensor:
    """Features of one image an example, float[examples, tokens, D]; of any aspect ratio the most tokens."""
    if not is_naflex(vision):
        return tower(empty_images(vision, examples)).last_hidden_state
    tokens = most_image_tokens(vision)
    patches = torch.empty(examples, tokens, vision.num_channels * vision.patch_size**2)
    mask = torch.zeros(examples, 1, tokens, tokens, dtype=torch.bool)
    # the encoder would read the shapes' numbers, which a tensor without memory has not
    tower.embeddings.resize_positional_embeddings = empty_positions
    return tower(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=patches).last_hidden_state


def empty_positions(positional_embeddings: torch.Tensor, patches: torch.Tensor, max_length: int) -> torch.Tensor:
    """float[examples, tokens, D], the place of position embeddings resized to each image."""
    return positional_embeddings.new_empty(len(patches), max_length, positional_embeddings.shape[-1])


def token_ids(examples: int, length: int) -> torch.Tensor:
    """int[examples, length]."""
    return torch.zeros(examples, length, dtype=torch.long)


def paligemma_step(model: Any, examples: int, lengths: Lengths) -> torch.Tensor:
    """PaliGemma's hidden states of the target."""
    parts, text = model.model, model.config.text_config
    features = image_features(parts.vision_tower, model.config.vision_config, examples)
    tokens = parts.multi_modal_projector(features)
    embedded = parts.language_model.embed_tokens(token_ids(examples, lengths.prompt + lengths.target))
    sequence = torch.cat([tokens.to(embedded), embedded], dim=1)
    size = sequence.shape[1]
    mask: Any = torch.zeros(examples, 1, size, size, dtype=torch.bool)
    if text.model_type != "gemma":
        mask = {"full_attention": mask, "sliding_attention": mask.clone()}
    hidden = parts.language_model(inputs_embeds=sequence, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden[:, -lengths.target :]


def pali3_step(model: Any, examples: int, lengths: Lengths) -> torch.Tensor:
    """PaLI-3's hidden states of the target."""
    encoder, vision = model.model.encoder, model.config.vision_config
    features = image_features(encoder.vision_tower, vision, examples)
    # positions of the projected tokens have the same shape for every grid
    tokens = encoder.project(features, 1, features.shape[1])
    embedded = encoder.get_input_embeddings()(token_ids(examples, lengths.prompt))
    sequence = torch.cat([tokens.to(embedded), embedded], dim=1)
    return sequence_to_sequence(encoder.text_encoder, model.model.decoder, sequence, lengths)


def denoise_step(model: Any, examples: int, lengths: Lengths) -> torch.Tensor:
    """An encoder-decoder's hidden states of the target."""
    encoder = model.get_encoder()
    embedded = encoder.get_input_embeddings()(token_ids(examples, lengths.prompt))
    return sequence_to_sequence(encoder, model.get_decoder(), embedded, lengths)


def sequence_to_sequence(encoder: Any, decoder: Any, embedded: torch.Tensor, lengths: Lengths) -> torch.Tensor:
    """Hidden states of the decoder, with masks for padding."""
    examples, size = embedded.shape[:2]
    mask = bidirectional_mask(encoder, examples, size)
    encoded = encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    return decoder(
        input_ids=token_ids(examples, lengths.target),
        encoder_hidden_states=encoded,
        encoder_attention_mask=torch.zeros(examples, 1, lengths.target, size, dtype=torch.bool),
        use_cache=False,
    ).last_hidden_state


def bidirectional_mask(encoder: Any, examples: int, size: int) -> Any:
    """A bidirectional mask; T5Gemma's encoder takes one for each kind of layer."""
    mask = torch.zeros(examples, 1, size, size, dtype=torch.bool)
    if encoder.config.model_type.startswith("t5gemma"):
        return {"full_attention": mask, "sliding_attention": mask.clone()}
    return mask


def contrastive_step(model: Any, examples: int, lengths: Lengths) -> list[torch.Tensor]:
    """Pooled outputs of the two towers of a SigLIP."""
    images = model.vision_model(pixel_values=empty_images(model.config.vision_config, examples))
    texts = model.text_model(input_ids=token_ids(examples * lengths.texts, lengths.prompt))
    return [images.pooler_output, texts.pooler_output]


def image_step(model: Any, examples: int, lengths: Lengths) -> Any:
    """Logits of a classifier of images or of patches."""
    return model(pixel_values=empty_images(model.config.vision_config, examples))


STEPS: dict[str, Callable[[Any, int, Lengths], Any]] = {
    "paligemma": paligemma_step,
    "paligemma_naflex": paligemma_step,
    "pali3": pali3_step,
    "contrastive": contrastive_step,
    "classification": image_step,
    "dense": image_step,
    "denoise": denoise_step,
}
