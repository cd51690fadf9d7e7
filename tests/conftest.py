"""What every test starts from: one thread, a quiet environment, and a data root of its own on request."""

from __future__ import annotations

import json
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported: tests run side by side
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """An empty data root."""
    root = tmp_path / "data"
    monkeypatch.setenv("MULTIGEN_DATA", str(root))
    return root


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "apple", "green", "a", "dog"]


@pytest.fixture
def sentences(tmp_path):
    """A folder with a very small BERT."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(WORDS), **shape}))
    torch.manual_seed(0)
    save_file(BertModel(BertConfig(vocab_size=len(WORDS), **shape)).state_dict(), tmp_path / "model.safetensors")
    return tmp_path
