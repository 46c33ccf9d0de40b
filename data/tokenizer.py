"""Train a small tokenizer for models that start from random weights, with T5's special tokens.

The processor of a small model takes it; a published checkpoint has its own tokenizer.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from openpali.modeling.processing_tokenizer import IMAGE_TOKEN, LOCATION_TOKENS, SEGMENTATION_TOKENS

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on prefixes and suffixes; any text in any script survives encoding and decoding.

    As in T5, padding is 0, the end token is 1 and the unknown token is 2. The 1024 location and 128 segmentation
    tokens are ordinary tokens that decoding keeps; `<image>` is special, and `skip_special_tokens` drops it.

    Args:
        texts: prompts and targets in any order; repeating a text weighs it.
        vocab_size: tokens to learn, with the three special tokens and the 256 bytes; 1153 more are added.

    Returns:
        A tokenizer of at most `vocab_size + 1153` tokens, fewer when the texts have too few pairs to merge.

    Raises:
        ValueError: `vocab_size` below 259.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 3:
        raise ValueError(f"vocab_size={vocab_size}: the bytes and special tokens alone need {len(alphabet) + 3}")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, UNKNOWN],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    # sorted, so that ties do not depend on the order of the texts
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in LOCATION_TOKENS + SEGMENTATION_TOKENS])
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=[IMAGE_TOKEN],
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=int(1e9),
    )
