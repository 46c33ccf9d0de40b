"""PaLI-3 (arXiv 2310.09199): a SigLIP image encoder in front of an encoder-decoder.

What departs from a plain encoder-decoder of Transformers:
- a projector, which starts at zero in the paper, maps the image encoder's unpooled tokens to the text model's width;
  they replace the `<image>` placeholders before the prefix; several images and video frames are just more of them;
- text encoder and decoder may be any pair of Transformers (T5, UMT5, T5Gemma are tested), used as they are;
- the loss is averaged per example and never builds the logits of unsupervised positions;
- training returns logits on request only, since they are the largest tensor of a training step.

Shapes: `B` examples, `N` images (behind `B`: of an example), `P` tokens of an image, `L` tokens of a sequence, `S`
suffix tokens, `D` width of the text model (`D_vision`: of the image encoder), `V` vocabulary, `H W` pixels.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .checkpoints import load_checkpoint, load_tower
from .configuration_pali3 import Pali3Config, vision_config_of
from .image_patches import tower_class
from .loss_request import LossKwargs, LossRequest
from .modeling_pali3_encoder import (
    Pali3Encoder,
    Pali3EncoderOutput,
    Pali3PreTrainedModel,
    embedding_tables,
    without_return_dict,
)
from .modeling_pali3_outputs import Pali3ModelOutput, Pali3Seq2SeqLMOutput
from .token_loss import IGNORE_INDEX, select_logits
from .transformers_versions import CACHE, one_cache


class Pali3Model(Pali3PreTrainedModel):
    """PaLI-3 without the LM head."""

    def __init__(self, config: Pali3Config):
        super().__init__(config)
        text_model = AutoModel.from_config(config.text_config)
        self.shares_embeddings = "shared" in dict(text_model.named_children())
        self.encoder = Pali3Encoder(config, text_model.encoder)
        self.decoder = text_model.decoder
        if self.shares_embeddings:
            self._tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.text_encoder.embed_tokens.weight"}
        self.post_init()

    def init_own_weights(self) -> None:
        """Initialise T5's shared table, which T5Model would do and is not part of this model."""
        if self.shares_embeddings:
            table: Any = self.encoder.get_input_embeddings()
            init.normal_(table.weight, std=self.config.text_config.initializer_factor)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The image encoder for `modality="image"`, otherwise images and text together."""
        return self.encoder.vision_tower if modality in ("image", "video") else self.encoder

    def get_decoder(self) -> nn.Module:
        """The text decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's embedding table."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table, the decoder's too where it is the same."""
        self.encoder.set_input_embeddings(value)
        if self.shares_embeddings:
            self.decoder.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """See `Pali3Encoder.get_image_features`."""
        return self.encoder.get_image_features(pixel_values, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        image_features: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Pali3ModelOutput:
        """Encode images and prefix, then decode.

        Args:
            input_ids: int[B, L], image placeholders included.
            pixel_values, spatial_shapes, pixel_attention_mask: see `Pali3Encoder.get_image_features`.
            attention_mask: int[B, L], 0 on padding.
            decoder_input_ids: int[B, S]; the start token alone when left out.
            decoder_attention_mask: int[B, S].
            encoder_outputs: of an earlier call; images and prefix are not encoded again.
            cache: of an earlier call; `past_key_values` is another name of it.
            inputs_embeds, decoder_inputs_embeds: float[B, L, D] and float[B, S, D] in place of ids.
            use_cache: whether to return the cache.
            image_features: float[N, P, D_vision], the image encoder's output in place of images.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`.
        """
        options = without_return_dict(kwargs)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                pixel_values=pixel_values,
                inputs_embeds=inputs_embeds,
                image_features=image_features,
                spatial_shapes=spatial_shapes,
                return_dict=True,
                **options,
            )
        elif not isinstance(encoder_outputs, ModelOutput):
            encoder_outputs = Pali3EncoderOutput(*encoder_outputs)
        encoded = encoder_outputs[0]  # [B, L, D]
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            start: Any = self.config.decoder_start_token_id
            decoder_input_ids = torch.full((encoded.shape[0], 1), start, device=encoded.device)  # [B, 1]
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
            **{CACHE: one_cache(cache, past_key_values)},
            **options,
        )
        return Pali3ModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded,
            encoder_hidden_states=encoder_outputs.get("hidden_states"),
            encoder_attentions=encoder_outputs.get("attentions"),
            image_hidden_states=encoder_outputs.get("image_hidden_states"),
            **{CACHE: decoded.get(CACHE)},
        )


class Pali3ForConditionalGeneration(Pali3PreTrainedModel, GenerationMixin):
    """PaLI-3: images and a prefix in, text out."""

    # the Trainer gives `num_items_in_batch`
    accepts_loss_kwargs = True

    def __init__(self, config: Pali3Config):
        super().__init__(config)
        self.model = Pali3Model(config)
        decoder = config.get_text_config(decoder=True)
        self.lm_head = nn.Linear(decoder.hidden_size, decoder.vocab_size, bias=False)
        if config.tie_word_embeddings:
            table = "encoder.text_encoder" if self.model.shares_embeddings else "decoder"
            self._tied_weights_keys = {"lm_head.weight": f"model.{table}.embed_tokens.weight"}
        self.output_scale = decoder.hidden_size**-0.5 if config.scale_decoder_outputs else 1.0
        self.softcap = decoder.final_logit_softcapping if config.text_config.model_type == "t5gemma" else None
        self.post_init()

    @classmethod
    def from_backbones(
        cls, vision: str, text: str, processor: Any = None, **kwargs
    ) -> "Pali3ForConditionalGeneration":
        """Assemble a model from a published image encoder and a published encoder-decoder.

        Args:
            vision: Hub name or folder of a SigLIP (its image tower is used, without pooling head), also NaFlex.
            text: Hub name or folder of a T5, UMT5 or T5Gemma model.
            processor: of `Pali3Processor.from_backbones` with the same names. It defines the `<image>` token, and
                the embedding tables grow to its vocabulary. Without it, `<image>` is the last row of the table, which
                is unused in the published ones.
            **kwargs: fields of [`Pali3Config`], for instance `projector="mlp"`.

        Returns:
            The model in evaluation mode; its projector is new, so it answers only after training.
        """
        vision_tower = load_tower(vision, tower_class(vision_config_of(vision)), vision_config_of(vision))
        language_model: Any = load_checkpoint(AutoModelForSeq2SeqLM, text)
        head = language_model.get_output_embeddings().weight
        tied = any(head.data_ptr() == table.data_ptr() for table in embedding_tables(language_model))
        kwargs.setdefault("tie_word_embeddings", tied)
        kwargs.setdefault("image_token_id", head.shape[0] - 1 if processor is None else processor.image_token_id)
        config = Pali3Config(vision_config=vision_tower.config, text_config=language_model.config, **kwargs)
        model = cls(config)
        model.model.encoder.vision_tower.load_state_dict(vision_tower.state_dict())
        model.model.encoder.text_encoder.load_state_dict(language_model.get_encoder().state_dict())
        model.model.decoder.load_state_dict(language_model.get_decoder().state_dict())
        model.lm_head.load_state_dict({"weight": head.detach()})
        model.tie_weights()
        if processor is not None and len(processor.tokenizer) > head.shape[0]:
            model.resize_token_embeddings(len(processor.tokenizer), pad_to_multiple_of=64)
        return model.eval()

    def init_own_weights(self) -> None:
        """Initialise an untied LM head so that logits start with unit variance."""
        if not self.config.tie_word_embeddings:
            init.normal_(self.lm_head.weight, std=self.lm_head.in_features**-0.5)

    def get_output_embeddings(self) -> nn.Linear:
        """The LM head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the LM head."""
        self.lm_head = new_embeddings

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize every table that has one row per token: the encoder's, the decoder's and the LM head.

        Args:
            new_num_tokens: rows to have; None changes nothing but the padding.
            pad_to_multiple_of: round the number of rows up to a multiple of this.
            mean_resizing: draw new rows around the mean of the old ones (see Transformers).

        Returns:
            The encoder's table.
        """
        resize_decoder = not self.model.shares_embeddings
        if resize_decoder and (new_num_tokens is not None or pad_to_multiple_of is not None):
            table = self._get_resized_embeddings(
                self.model.decoder.get_input_embeddings(), new_num_tokens, pad_to_multiple_of, mean_resizing
            )
            self.model.decoder.set_input_embeddings(table)
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        if resize_decoder:
            rows = embeddings.num_embeddings
            text_config = self.config.text_config
            text_config.vocab_size = text_config.encoder.vocab_size = text_config.decoder.vocab_size = rows
        return embeddings

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """See `Pali3Encoder.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shift labels, int[B, S], to the right behind the start token; -100 becomes padding."""
        start: Any = self.config.decoder_start_token_id
        pad: Any = self.config.pad_token_id
        shifted = torch.cat([labels.new_full((labels.shape[0], 1), start), labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORE_INDEX, pad)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_logits: bool | None = None,
        image_features: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[LossKwargs],
    ) -> Pali3Seq2SeqLMOutput:
        """Compute the loss of `labels`; logits without them, and in evaluation mode.

        Args as of [`Pali3Model`], where `decoder_input_ids` are made from `labels` when left out, and:
            labels: int[B, S], the suffix and its end token, -100 on padding.
            logits_to_keep: number of last positions to compute logits of (0: all), or these positions.
            output_logits: whether to compute logits; by default without labels, and in evaluation mode, for
                `compute_metrics`.
            **kwargs: see `LossKwargs` in loss_request.py.

        Returns:
            `loss`: float[], and further losses, see `LossRequest.output`; `logits`: float[B, S, V].

        Raises:
            ValueError: `shift_labels` are given, which are for decoder-only models.
        """
        request = LossRequest.taken_from(kwargs)
        if kwargs.pop("shift_labels", None) is not None:
            raise ValueError("shift_labels are of decoder-only models: give this encoder-decoder labels")
        if labels is not None:
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            image_features=image_features,
            spatial_shapes=spatial_shapes,
            return_dict=True,
            **without_return_dict(kwargs),
        )
        hidden_states = outputs.last_hidden_state * self.output_scale  # [B, S, D]
        fields = {key: value for key, value in outputs.items() if key != "last_hidden_state"}
        logits = None
        if labels is not None:
            smoothing = self.config.label_smoothing
            fields |= request.output(hidden_states, self.lm_head, labels, smoothing, self.softcap)
        if output_logits or (output_logits is None and (labels is None or not self.training)):
            logits = select_logits(hidden_states, self.lm_head, logits_to_keep, self.softcap)  # [B, S, V]
        return Pali3Seq2SeqLMOutput(logits=logits, **fields)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs) -> None:
        """Make caches as deep as the decoder; Transformers takes the depth of T5's encoder. T5Gemma's decoder slides
        its window over its own tokens only: cross-attention must not slide.
        """
        given = model_kwargs.get(CACHE)
        mixin: Any = super()
        mixin._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        cache = model_kwargs.get(CACHE)
        if given is not None or not isinstance(cache, EncoderDecoderCache):
            return
        own_tokens = cache.self_attention_cache
        if type(own_tokens) is DynamicCache:
            own_tokens = DynamicCache(config=self.get_decoder().config)
        elif self.config.text_config.model_type != "t5gemma":
            return
        model_kwargs[CACHE] = EncoderDecoderCache(own_tokens, DynamicCache())


__all__ = ["Pali3ForConditionalGeneration", "Pali3Model", "Pali3PreTrainedModel"]
