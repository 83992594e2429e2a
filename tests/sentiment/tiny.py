"""Transformers models of a few kilobytes with random weights, in the layouts of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from ray_app.sentiment.models import LocalModel, inspect

WORDS = [
    "the",
    "market",
    "bitcoin",
    "crashed",
    "rose",
    "strong",
    "weak",
    "profit",
    "loss",
    "to",
    "moon",
    "up",
    "down",
    "is",
    "very",
    "and",
    "no",
    "meeting",
]
FINBERT_ORDER = ("positive", "negative", "neutral")
CRYPTOBERT_ORDER = ("Bearish", "Neutral", "Bullish")
#: unlike either published order
OTHER_ORDER = ("NEUTRAL", "Bullish", "bearish")
MAX_TOKENS = 64

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
    "initializer_range": 0.5,  # the usual 0.02 gives every text the same probabilities
}


def bert(folder: Path, labels=FINBERT_ORDER, seed=0, **more) -> Path:
    """ProsusAI/finbert's layout: vocab.txt, no tokenizer.json."""
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)] + [*"0123456789.,!?-"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + letter for letter in letters)]
    config = BertConfig(vocab_size=len(vocab), max_position_embeddings=MAX_TOKENS, **SIZES | more)
    _save(BertForSequenceClassification, config, folder, labels, seed)
    (folder / "vocab.txt").write_text("\n".join(vocab))
    _tokenizer_config(folder, tokenizer_class="BertTokenizer", do_lower_case=True, model_max_length=MAX_TOKENS)
    return folder


def roberta(folder: Path, labels=CRYPTOBERT_ORDER, seed=0, **more) -> Path:
    """ElKulako/cryptobert's layout: vocab.json and merges.txt; positions from pad_token_id + 1."""
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    config = RobertaConfig(vocab_size=len(vocab), max_position_embeddings=MAX_TOKENS + 2, **SIZES | more)
    _save(RobertaForSequenceClassification, config, folder, labels, seed)
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _tokenizer_config(folder, tokenizer_class="RobertaTokenizer")
    return folder


def masked_language_model(folder: Path) -> Path:
    """A pre-trained model nobody fine-tuned: its config says classifier, its weights have no classifier."""
    bert(folder)
    claimed = (folder / "config.json").read_bytes()
    config = BertConfig.from_pretrained(folder)
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "config.json").write_bytes(claimed)
    return folder


def local(folder: Path, name: str = "tiny") -> LocalModel:
    return inspect(name, folder)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _save(kind, config, folder: Path, labels, seed: int) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: n for n, label in enumerate(labels)}
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)


def _tokenizer_config(folder: Path, **content) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
