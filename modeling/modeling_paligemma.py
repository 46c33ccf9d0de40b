"""PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555): Transformers' architecture, a cheaper training step.

What departs from Transformers' class, and only with labels or packed sequences:
- hidden states are gathered at supervised positions before the LM head of 257k tokens, and the loss is computed in
  chunks of the vocabulary, averaged over each example's tokens and then over the examples, or over all tokens of
  `num_items_in_batch` where a trainer gives it;
- the prefix-LM mask is made here for every attention implementation (`attention_masks.py`), and missing
  `token_type_ids` are an error;
- several examples can be packed into one sequence (`sequence_ids`, see `data/packing.py`);
- the final-logit soft-cap of Gemma 2 is left out of the loss, as in big_vision; generation keeps it;
- `text_dropout` of the configuration is the dropout of the text model's blocks in training (`dropout.py`).

Two fields of the configuration, which stock checkpoints lack, choose the papers' comparisons: `projector="mlp"` and
`image_encoder="none"`. Such checkpoints load here only; all others load in stock Transformers as well.

Shapes: `B` examples (packed: rows), `N` images (behind `B`: of an example), `P` tokens of an image, `L` tokens of a
sequence, `D` width of the text model (`D_vision`: of the image encoder), `V` vocabulary, `H W` pixels.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PaliGemmaConfig
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.paligemma import modeling_paligemma as stock
from transformers.utils import can_return_tuple

from .attention_masks import prefix_lm_mask
from .checkpoints import load_checkpoint, load_tower
from .configuration_pali3 import vision_config_of
from .configuration_paligemma import paligemma_config
from .dropout import FIELD, add_residual_dropout
from .image_patches import IMAGE_INPUTS, repeated_images, tower_class
from .loss_request import LossRequest
from .modeling_paligemma_images import PaliGemmaProjector, RawPatches
from .token_loss import IGNORE_INDEX, select_logits
from .transformers_versions import CACHE, CacheOutput, image_fields, one_cache

# beginnings of parameters' names in memory, and in the published checkpoints
PUBLISHED = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.": "",
}
# of the embeddings of new tokens (PaliGemma, section 3.1); a mean of the old ones is ahead for a thousand steps only
NEW_TOKEN_STD = 0.02


def published_name(name: str) -> str:
    """The name of a parameter in the published checkpoints."""
    for beginning, published in PUBLISHED.items():
        if name.startswith(beginning):
            return published + name.removeprefix(beginning)
    return name


@dataclass
class PaliGemmaOutput(CacheOutput, stock.PaliGemmaCausalLMOutputWithPast):
    """Transformers' output, and the losses of examples and tokens."""

    example_losses: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    second_losses: torch.Tensor | None = None


class PaliGemmaForConditionalGeneration(stock.PaliGemmaForConditionalGeneration):
    """Transformers' PaliGemma; with `labels` it computes the paper's loss at a fraction of the memory."""

    # the Trainer gives `num_items_in_batch`
    accepts_loss_kwargs = True

    def __init__(self, config: PaliGemmaConfig):
        super().__init__(config)
        self.text_dropout = add_residual_dropout(self.model.language_model, option(config, FIELD, 0.0))
        projector, encoder = option(config, "projector", "linear"), option(config, "image_encoder", "siglip")
        if projector not in ("linear", "mlp") or encoder not in ("siglip", "none"):
            raise ValueError(
                f"projector is 'linear' or 'mlp', not {projector!r}; image_encoder 'siglip' or 'none', not {encoder!r}"
            )
        if (projector, encoder) != ("linear", "siglip"):
            parts: Any = self.model
            vision: Any = config.vision_config
            features = vision.hidden_size
            if encoder == "none":
                parts.vision_tower = RawPatches(vision.patch_size)
                features = 3 * vision.patch_size**2
            parts.multi_modal_projector = PaliGemmaProjector(config, features, mlp=projector == "mlp")
            self.post_init()

    @classmethod
    def from_backbones(
        cls, vision: str, text: str, processor: Any, **fields: Any
    ) -> "PaliGemmaForConditionalGeneration":
        """Assemble a model from a published image encoder and a published language model.

        Args:
            vision: Hub name or folder of a SigLIP model (its image tower is used, without pooling head).
            text: Hub name or folder of a Gemma or Gemma 2 model.
            processor: of `PaliGemmaProcessor.from_backbones` with the same names. It defines the `<image>` token; the
                embedding table grows to its vocabulary, by rows from N(0, 0.02).
            **fields: of the configuration, for instance `projector="mlp"`.

        Returns:
            The model in evaluation mode; its projector is new, so it answers only after training.

        Raises:
            ValueError: the image encoder takes images of any aspect ratio, and the class does not, or vice versa.
        """
        tower = load_tower(vision, tower_class(vision_config_of(vision)), vision_config_of(vision))
        language_model: Any = load_checkpoint(AutoModelForCausalLM, text)
        parts = tower.config.to_dict(), language_model.config.to_dict()
        config = paligemma_config(*parts, image_token_id=processor.image_token_id, **fields)
        if config.model_type != cast(Any, cls.config_class).model_type:
            raise ValueError(f"{vision} makes a model of the type {config.model_type}, which is not {cls.__name__}'s")
        model: Any = cls(config)
        if option(model.config, "image_encoder", "siglip") == "siglip":
            model.model.vision_tower.load_state_dict(tower.state_dict())
        model.model.language_model.load_state_dict(language_model.model.state_dict())
        model.lm_head.load_state_dict(language_model.lm_head.state_dict())
        model.tie_weights()
        rows = language_model.get_input_embeddings().num_embeddings
        if len(processor.tokenizer) > rows:
            model.resize_token_embeddings(len(processor.tokenizer), pad_to_multiple_of=64, mean_resizing=False)
            model.config.vocab_size = model.config.text_config.vocab_size
            for table in {model.get_input_embeddings().weight, model.lm_head.weight}:
                nn.init.normal_(table.data[rows:], std=NEW_TOKEN_STD)
        return model.eval()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False, since Transformers does not initialise modules without own parameters, as this one, in custom code.
        Here all initialisation goes through `initialization`.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            # a new projector starts at zero (PaliGemma, section 3.1)
            output: Any = self.model.multi_modal_projector.linear
            init.zeros_(output.weight)
            init.zeros_(output.bias)

    def save_pretrained(self, save_directory: Any, *args: Any, save_original_format: bool = False, **kwargs: Any):
        """Save under the parameters' names in memory.

        Stock Transformers loads these names as well as the published checkpoints' older ones, but its Trainer resumes,
        and loads the best weights, from these only.

        Args:
            save_directory: folder.
            *args: as in Transformers.
            save_original_format: True for the names of the published checkpoints, which vLLM reads, and programs
                older than Transformers 4.52; Transformers itself would write them only if it had read them.
            **kwargs: as in Transformers.
        """
        if save_original_format and not getattr(self, "_hf_peft_config_loaded", False):
            weights = kwargs.get("state_dict") or self.state_dict()
            head: Any = self.get_output_embeddings()
            if head.weight is self.get_input_embeddings().weight:
                weights = {name: weight for name, weight in weights.items() if not name.startswith("lm_head.")}
            kwargs["state_dict"] = {published_name(name): weight for name, weight in weights.items()}
        return super().save_pretrained(save_directory, *args, save_original_format=False, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        sequence_ids: torch.Tensor | None = None,
        output_logits: bool | None = None,
        image_features: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> stock.PaliGemmaCausalLMOutputWithPast:
        """Compute the loss of `labels`; without them and without `sequence_ids`, do as stock Transformers does.

        Args:
            input_ids: int[B, L]: image placeholders, BOS, prefix, separator, suffix, EOS, padding.
            pixel_values: float[N, 3, H, W] or float[B, N, 3, H, W], in [-1, 1].
            attention_mask: int[B, L], 0 on padding.
            position_ids: int[B, L], from 1; starting again in each example of a packed sequence.
            cache: of an earlier call; not with labels. `past_key_values` is another name of it.
            token_type_ids: int[B, L], 0 where attention is bidirectional (image and prefix), 1 where it is causal
                (suffix). Required with labels.
            inputs_embeds: float[B, L, D] in place of `input_ids`, images included.
            labels: int[B, L], -100 where there is nothing to predict; position i is predicted from i - 1.
            use_cache: whether to return the cache; not with labels.
            logits_to_keep: number of last positions to compute logits of (0: all), or these positions.
            mm_encoder_outputs: image features of an earlier call; not with labels.
            sequence_ids: int[B, L], the example of each token of packed sequences, from 0 over the whole batch, -1
                on padding.
            output_logits: whether to compute logits; by default without labels, and in evaluation mode, for
                `compute_metrics`. With labels they are the loss's own, without the final soft-cap.
            image_features: float[N, P, D_vision], the image encoder's output in place of images.
            **kwargs: see `LossKwargs` in loss_request.py.

        Returns:
            `loss`: float[], and further losses, see `LossRequest.output`; `logits`: float[B, L, V].

        Raises:
            ValueError: labels without `token_type_ids`, or with a cache, or with an attention implementation that
                cannot do prefix-LM; images twice.
        """
        if pixel_values is not None and image_features is not None:
            raise ValueError("give pixel_values or image_features, not both")
        cache = one_cache(cache, past_key_values)
        request = LossRequest.taken_from(kwargs)
        request.second_labels = next_tokens(request.second_labels, None)  # [B, L]
        targets = next_tokens(labels, kwargs.pop("shift_labels", None))  # [B, L]
        if targets is None and sequence_ids is None:
            inputs: Any = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "pixel_values": pixel_values}
            inputs |= {"attention_mask": attention_mask, "position_ids": position_ids}
            inputs |= {"token_type_ids": token_type_ids, "mm_encoder_outputs": mm_encoder_outputs}
            inputs |= {"use_cache": use_cache, "logits_to_keep": logits_to_keep, CACHE: cache}
            return self.stock_forward(image_features, **inputs, **kwargs)
        if cache is not None or use_cache or mm_encoder_outputs is not None:
            raise ValueError("labels and packed sequences go through the whole model: no cache, no encoder outputs")
        embeds, image_outputs = self.embed(input_ids, inputs_embeds, pixel_values, image_features)  # [B, L, D]
        text_inputs = self.text_inputs(embeds, attention_mask, position_ids, token_type_ids, sequence_ids)
        outputs = self.model.language_model(**text_inputs, use_cache=False, **kwargs)
        hidden = outputs.last_hidden_state  # [B, L, D]
        with_logits = targets is None or not self.training if output_logits is None else output_logits
        losses: dict[str, Any] = {}
        if targets is not None:
            smoothing = option(self.config, "label_smoothing", 0.0)
            losses = request.output(hidden, self.lm_head, targets, smoothing, example_ids=sequence_ids)
        return PaliGemmaOutput(
            logits=self.logits(hidden, logits_to_keep, with_softcap=targets is None) if with_logits else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **losses,
            **image_fields(image_outputs),
        )

    def stock_forward(self, image_features: torch.Tensor | None, **inputs: Any) -> PaliGemmaOutput:
        """Compute logits as stock Transformers does; arguments as of `forward`, under the names of the release."""
        cache: Cache | None = inputs[CACHE]
        # generation passes image features in every step; their placeholders are in the first step only
        if image_features is not None and not (cache and cache.get_seq_length()):
            inputs["mm_encoder_outputs"] = {"image": self.project(image_features)}
        forward: Any = super().forward
        return PaliGemmaOutput(**forward(**inputs, return_dict=True))

    def _expand_inputs_for_generation(self, expand_size: int = 1, *args: Any, input_ids: Any = None, **kwargs: Any):
        """Repeat an example's images as a group for its beams; Transformers would repeat every image by itself."""
        names, images = [name for name in IMAGE_INPUTS if torch.is_tensor(kwargs.get(name))], dict[str, torch.Tensor]()
        # those with a dimension of examples in front are repeated as they are; Transformers itself has pixel_values
        flat = kwargs["spatial_shapes"].ndim == 2 if "spatial_shapes" in names else names == ["image_features"]
        if expand_size > 1 and input_ids is not None and flat:
            placeholders = (input_ids == self.config.image_token_id).sum(1)
            images = repeated_images(placeholders, {name: kwargs.pop(name) for name in names}, expand_size)
        ids, rest = super()._expand_inputs_for_generation(expand_size, *args, input_ids=input_ids, **kwargs)
        return ids, rest | images

    def project(self, image_features: torch.Tensor) -> BaseModelOutputWithPooling:
        """Project image features, float[N, P, D_vision] to float[N, P, D], in the form of `get_image_features`."""
        tokens: Any = self.model.multi_modal_projector(image_features)
        return BaseModelOutputWithPooling(last_hidden_state=image_features, pooler_output=tokens)  # pyright: ignore

    def embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, BaseModelOutputWithPooling | None]:
        """Embed a sequence: token embeddings, and projected image tokens in place of the placeholders.

        Returns:
            float[B, L, D], and the output of `get_image_features` (None without images).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            assert input_ids is not None
            # the placeholder's id may lie beyond the embedding table
            words = input_ids.masked_fill(input_ids == self.config.image_token_id, 0)  # [B, L]
            inputs_embeds = self.get_input_embeddings()(words)  # [B, L, D]
        assert inputs_embeds is not None
        if pixel_values is None and image_features is None:
            return inputs_embeds, None
        image_outputs: Any = (
            self.get_image_features(pixel_values.flatten(0, -4))
            if pixel_values is not None
            else self.project(image_features)  # pyright: ignore[reportArgumentType]
        )
        # float[N, P, D], or of images of any aspect ratio without padding
        features = image_outputs.pooler_output = image_outputs.pooler_output.to(inputs_embeds)
        # [B, L, 1]
        mask = self.model.get_placeholder_mask(input_ids, inputs_embeds, features)  # type: ignore[arg-type]
        return inputs_embeds.masked_scatter(mask, features), image_outputs

    def text_inputs(
        self,
        embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        sequence_ids: torch.Tensor | None,
    ) -> dict[str, Any]:
        """Inputs of the text model in training: embeddings, prefix-LM mask and positions; see `forward`."""
        config = self.model.language_model.config
        mask = prefix_lm_mask(config, embeds, attention_mask, token_type_ids, sequence_ids)  # [B, 1, L, L]
        if position_ids is None:
            if sequence_ids is not None:
                raise ValueError("packed sequences need position_ids that start again in each example")
            # from 1, as in stock Transformers; only differences matter
            position_ids = 1 + torch.arange(embeds.shape[1], device=embeds.device)[None]  # [1, L]
        return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": position_ids}

    def logits(self, hidden: torch.Tensor, logits_to_keep: int | torch.Tensor, with_softcap: bool) -> torch.Tensor:
        """float[B, L, V], or of the positions to keep."""
        softcap = option(self.config.get_text_config(), "final_logit_softcapping", None) if with_softcap else None
        return select_logits(hidden, self.lm_head, logits_to_keep, softcap)


def next_tokens(labels: torch.Tensor | None, shift_labels: torch.Tensor | None) -> torch.Tensor | None:
    """The target of each position, int[B, L]: `shift_labels`, or else `labels` shifted to the left by one."""
    if shift_labels is None and labels is not None:
        return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # [B, L]
    return shift_labels


def option(config: Any, name: str, default: Any) -> Any:
    """A field of the configuration, which stock checkpoints may lack."""
    return getattr(config, name, default)


__all__ = ["PaliGemmaForConditionalGeneration"]
