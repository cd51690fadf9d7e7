"""Tiny models of the transformers library with random weights, as folders such as its hub has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SEEING = {**SMALL, "image_size": 32, "patch_size": 8}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PLAIN = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SCALED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
CROPPED = {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3}
WHOLE = {"size": {"height": 32, "width": 32}, "resample": 2}


def _configs() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Name -> configuration of the network, and of its preprocessing."""
    import transformers as t

    text = {**SMALL, "vocab_size": 99, "max_position_embeddings": 16}
    two = {"text_config": text, "vision_config": SEEING}
    return {
        "dinov2": (t.Dinov2Config(**SEEING), {**IMAGENET, **CROPPED}),
        "dinov3": (t.DINOv3ViTConfig(**SEEING, num_register_tokens=4), {**IMAGENET, **WHOLE}),
        "mae": (t.ViTMAEConfig(**SEEING), {**IMAGENET, **WHOLE}),
        "clip": (t.CLIPConfig(**two, projection_dim=16), {**PLAIN, **CROPPED}),
        "siglip2": (t.SiglipConfig(**two), {**PLAIN, **WHOLE}),
        "ijepa": (t.IJepaConfig(**SEEING), {**IMAGENET, **WHOLE}),
    }


PREFIX = {"dinov2": 1, "dinov3": 5, "mae": 1, "clip": 1, "siglip2": 0, "ijepa": 0}
"""Class and register tokens."""


def seeing(name: str, folder: Path) -> Path:
    """A folder with configuration, weights and preprocessing."""
    from transformers import AutoModel

    config, preprocessing = _configs()[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**SCALED, **preprocessing}))
    return folder


WORDS = [
    "<unk>",
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "USER:",
    "ASSISTANT:",
    "describe",
    "a",
    "red",
    "green",
    "apple",
    "dog",
    ".",
]
TEMPLATE = (
    "{% for m in messages %}USER: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def tokenizer() -> Any:
    """Words between spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special, extra_special_tokens={"image_token": "<image>"})


def talking(folder: Path) -> Path:
    """LLaVA: a folder with configuration, weights, tokenizer, preprocessing and template of dialogues."""
    import transformers as t

    text = t.LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=128, pad_token_id=1)
    seen = t.CLIPVisionConfig(**{**SEEING, "patch_size": 16})
    config = t.LlavaConfig(vision_config=seen, text_config=text, image_token_index=4, vision_feature_layer=-1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        t.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = t.CLIPImageProcessor(**{**SCALED, **PLAIN, **CROPPED})
    options = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    t.LlavaProcessor(pictures, tokenizer(), chat_template=TEMPLATE, **options).save_pretrained(folder)
    return folder


def reading(folder: Path) -> Path:
    """BERT: a folder with configuration, weights and tokenizer."""
    import transformers as t

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        t.BertModel(t.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=64)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
