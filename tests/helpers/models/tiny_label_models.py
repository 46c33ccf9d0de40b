"""Tiny random models that label images, saved with their processors: OWLv2, Grounding DINO and SAM."""

import json
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    SamConfig,
    SamModel,
    SamProcessor,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_owlv2(folder: Path) -> Path:
    """Sixteen candidates of an image of 32 px."""
    torch.manual_seed(0)
    text = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    words = ["!", "<pad>", "<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!", model_max_length=16)
    processor = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    Owlv2Processor(processor, tokenizer).save_pretrained(folder)
    return folder


def tiny_grounding_dino(folder: Path) -> Path:
    """Ten candidates of an image; the full stop has its id of BERT, which the model knows."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    bert = BertConfig(
        vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=10,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_text_len=40,
        num_feature_levels=4,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config)
    model.save_pretrained(folder)
    words = [f"[unused{place}]" for place in range(1100)]
    for place, word in ((0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (1012, "."), (1029, "?")):
        words[place] = word
    for place, letter in enumerate(LETTERS):
        words[200 + place], words[300 + place] = letter, f"##{letter}"
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 256})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def tiny_sam(folder: Path) -> Path:
    """A SAM of images of 64 px, which is rather sure of its masks."""
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "mlp_dim": 16, "window_size": 4, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4, "image_embedding_size": 8,
        },
        mask_decoder_config={
            "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_dim": 16,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    model = SamModel(config)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.bias += 0.9
    model.save_pretrained(folder)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, mask_size={"longest_edge": 32},
        pad_size={"height": 64, "width": 64}, mask_pad_size={"height": 32, "width": 32},
    )  # fmt: skip
    SamProcessor(processor).save_pretrained(folder)
    return folder


def model_type(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def tiny_sam2(folder: Path) -> Path:
    """A SAM 2 of images of 64 px; torchvision prepares them."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2Processor, Sam2VisionConfig
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor

    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(
        hidden_size=8, image_size=[64, 64], num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3], num_query_pool_stages=3,
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "mlp_dim": 16}
    decoder |= {"iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(folder)
    processor = Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    Sam2Processor(processor).save_pretrained(folder)
    return folder
