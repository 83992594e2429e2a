"""The scorer gives what a plain transformers forward gives, in the order asked, and a reason where there is nothing."""

from __future__ import annotations

import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from ray_app.errors import ModelIncomplete, ModelOutOfMemory, ModelUnsuitable
from ray_app.sentiment.labels import meaning
from ray_app.sentiment.models import LocalModel
from ray_app.sentiment.scorer import NOT_FINITE, Scorer, ScorerOptions
from ray_app.sentiment.tokens import CHARACTERS_PER_TOKEN, EMPTY, UNREADABLE, Tokens
from ray_app.sentiment.vocabulary import CLASSES
from tests.sentiment import tiny

#: how far a probability may move with its neighbours: other batches, other order of the sums
BATCHING = 6e-6


def mixed_texts(n: int, longest: int = 90) -> list[str]:
    """Texts of 1 to ``longest`` words: shorter and longer than the tiny models read."""
    rng = random.Random(n)
    return [" ".join(rng.choices(tiny.WORDS, k=rng.randint(1, longest))) for _ in range(n)]


def plain(folder: Path, texts: list[str]) -> np.ndarray:
    """(n, 3) in the order of CLASSES: one text at a time through transformers, read by the config's label names."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    positions = [next(n for n, label in model.config.id2label.items() if meaning(label) == name) for name in CLASSES]
    limit = min(tokenizer.model_max_length, 512 if model.config.max_position_embeddings > 500 else tiny.MAX_TOKENS)
    rows = []
    for text in texts:
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)).logits
        rows.append(logits.double().softmax(-1)[0, positions].numpy())
    return np.array(rows)


def probabilities(readings) -> np.ndarray:
    assert [reading.reason for reading in readings] == [None] * len(readings)
    return np.array([reading.probabilities for reading in readings])


ORDERS = [
    (tiny.bert, tiny.FINBERT_ORDER),
    (tiny.bert, tiny.OTHER_ORDER),
    (tiny.roberta, tiny.CRYPTOBERT_ORDER),
    (tiny.roberta, tiny.OTHER_ORDER),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture(scope="module")
def scorer(bert) -> Scorer:
    return load(bert)


def load(folder: Path, **options) -> Scorer:
    return Scorer.load(tiny.local(folder), ScorerOptions(**{"precision": "fp32", "tokens": 256} | options))


@pytest.mark.parametrize(("build", "labels"), ORDERS)
def test_probabilities_equal_a_plain_forward(build, labels, tmp_path):
    folder = build(tmp_path, labels, seed=3)
    texts = mixed_texts(60)
    expected = plain(folder, texts)
    assert np.ptp(np.log(expected), axis=0).min() > 1, "the model tells texts apart, or this test proves nothing"
    np.testing.assert_allclose(probabilities(load(folder).score(texts)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [1, 64, 100_000])
def test_batches_of_any_size_give_the_same(bert, scorer, tokens):
    texts = mixed_texts(30)
    other = probabilities(load(bert, tokens=tokens).score(texts))
    np.testing.assert_allclose(other, probabilities(scorer.score(texts)), atol=BATCHING, rtol=0)


@pytest.mark.parametrize(("spread", "within"), [(0.5, math.inf), (0.15, 0.02)])
def test_another_architecture_takes_the_padded_way(tmp_path, spread, within):
    folder = tiny.bert(tmp_path)
    config = DistilBertConfig(
        vocab_size=len((folder / "vocab.txt").read_text().splitlines()),
        max_position_embeddings=tiny.MAX_TOKENS, dim=32, n_layers=2, n_heads=4, hidden_dim=64, initializer_range=spread,
        num_labels=3, id2label=dict(enumerate(tiny.OTHER_ORDER)), label2id={k: n for n, k in enumerate(tiny.OTHER_ORDER)},
    )  # fmt: skip
    DistilBert(config).save_pretrained(folder)
    texts = mixed_texts(30)
    np.testing.assert_allclose(probabilities(load(folder).score(texts)), plain(folder, texts), atol=1e-5, rtol=0)
    assert np.abs(probabilities(load(folder, precision="int8").score(texts)) - plain(folder, texts)).mean() < within


def test_a_bert_with_another_activation_takes_the_padded_way(tmp_path):
    folder = tiny.bert(tmp_path, hidden_act="relu")
    texts = mixed_texts(10)
    np.testing.assert_allclose(probabilities(load(folder).score(texts)), plain(folder, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [tiny.bert, tiny.roberta])
def test_special_tokens_spelt_out_in_a_text_count_as_in_transformers(build, tmp_path):
    folder = build(tmp_path)
    texts = ["up <pad> down <pad> up", "the [PAD] moon [SEP] down", "</s> crashed <mask> rose [MASK]"]
    np.testing.assert_allclose(probabilities(load(folder).score(texts)), plain(folder, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [tiny.bert, tiny.roberta])
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.1), ("int8", 0.25)])
def test_the_smaller_numbers_stay_near(build, precision, share, tmp_path):
    """Within a share of what tells texts apart.

    Weights smaller than in the other tests: theirs are so large that every layer doubles a rounding.
    """
    folder = build(tmp_path, seed=1, initializer_range=0.15)
    texts = mixed_texts(40)
    expected = plain(folder, texts)
    difference = np.abs(probabilities(load(folder, precision=precision).score(texts)) - expected)
    assert 0 < difference.mean() < share * expected.std(axis=0).max()


def test_int8_leaves_outliers_in_floating_point(tmp_path):
    """One hidden column a hundred times the others, as fine-tuned BERTs have: a single range would drown the rest."""
    from ray_app.sentiment.int8 import Int8Linear

    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 64)
    inputs = torch.randn(50, 256)
    inputs[:, 7] *= 100
    with torch.inference_mode():
        error = (Int8Linear(linear)(inputs) - linear(inputs)).abs().mean() / linear(inputs).abs().mean()
    assert error < 0.02


@pytest.mark.parametrize("overwrite", [True, False])
def test_int8_keeps_its_inputs_unless_they_are_its_own(overwrite):
    from ray_app.sentiment.int8 import Int8Linear

    inputs = torch.randn(5, 32)
    before = inputs.clone()
    with torch.inference_mode():
        Int8Linear(torch.nn.Linear(32, 4), overwrite=overwrite)(inputs)
    assert torch.equal(inputs, before) is not overwrite


def test_the_order_of_the_texts_is_kept(scorer):
    texts = mixed_texts(50)
    alone = [scorer.score([text])[0].probabilities for text in texts]
    np.testing.assert_allclose(probabilities(scorer.score(texts)), alone, atol=BATCHING, rtol=0)


def test_rows_sum_to_one_and_score_and_confidence_follow(scorer):
    for reading in scorer.score(mixed_texts(20)):
        negative, _, positive = reading.probabilities
        assert math.isclose(sum(reading.probabilities), 1, abs_tol=1e-6)
        assert reading.score == positive - negative
        assert reading.confidence == max(reading.probabilities)


@pytest.mark.parametrize("text", [None, "", " \n\t ", "\u2003", "\x00\x01", "\ud83d"])
def test_a_text_without_content_is_unscored(scorer, text):
    (reading,) = scorer.score([text])
    assert (reading.probabilities, reading.reason, reading.score, reading.confidence) == (None, EMPTY, None, None)


def test_a_text_of_unknown_characters_only_is_unscored(scorer):
    assert scorer.score(["🚀🚀 市場"])[0].reason == UNREADABLE


def test_emoji_and_mixed_scripts_are_scored_beside_words(scorer, tmp_path):
    texts = ["to the moon 🚀🚀", "рынок down вниз", "市場 is very weak", "\u202eup\u202c e\u0301 up", "up \ud83d\ude80"]
    assert all(reading.probabilities for reading in scorer.score(texts))
    byte_level = load(tiny.roberta(tmp_path))
    assert all(reading.probabilities for reading in byte_level.score([*texts, "🚀🚀 市場"]))


def test_halves_of_an_emoji_are_joined(tmp_path):
    byte_level = load(tiny.roberta(tmp_path))
    joined, halves = byte_level.score(["up 🚀", "up \ud83d\ude80"])
    np.testing.assert_allclose(joined.probabilities, halves.probabilities, atol=BATCHING, rtol=0)


def test_one_text_of_nothing_disturbs_no_other(scorer):
    texts = ["up", "", "down is very weak", None]
    readings = scorer.score(texts)
    assert [reading.reason for reading in readings] == [None, EMPTY, None, EMPTY]
    alone = probabilities(scorer.score(["up", "down is very weak"]))
    np.testing.assert_allclose(probabilities([readings[0], readings[2]]), alone, atol=BATCHING, rtol=0)


def test_no_text_at_all(scorer):
    assert scorer.score([]) == []
    assert list(scorer.stream([])) == []


def test_a_megabyte_reads_as_its_beginning_and_says_so(scorer):
    long = "the market is up and strong " * 40_000
    (reading,) = scorer.score([long])
    assert len(long) > 1_000_000
    assert reading == scorer.score([" ".join(long.split()[:200])])[0]
    assert reading.truncated
    assert not scorer.score(["up and down"])[0].truncated


def test_the_tokenizer_never_sees_a_megabyte(bert):
    scorer = load(bert)
    seen = []

    class Watched:
        def __init__(self, inner):
            self._inner = inner

        def encode_batch(self, texts):
            seen.extend(map(len, texts))
            return self._inner.encode_batch(texts)

    scorer.tokens._tokenizer = Watched(scorer.tokens._tokenizer)
    scorer.score(["up " * 400_000])
    assert max(seen) <= CHARACTERS_PER_TOKEN * scorer.max_tokens
    scorer.score([" " * 900_000 + "up"])
    assert max(seen) <= 4 * CHARACTERS_PER_TOKEN * scorer.max_tokens


def test_words_beyond_the_first_cut_are_still_read(scorer):
    """Blanks make a long text of few tokens: what the first cut misses is looked for further on."""
    hidden = "up" + " " * (CHARACTERS_PER_TOKEN * scorer.max_tokens) + "down"
    found = scorer.score([hidden])[0]
    assert found.probabilities == scorer.score(["up down"])[0].probabilities
    assert not found.truncated


def test_a_word_of_a_million_letters_is_one_unknown_piece(scorer):
    readings = scorer.score(["up " + "x" * 1_000_000, "x" * 1_000_000])
    assert readings[0].probabilities is not None
    assert readings[0].truncated
    assert readings[1].reason == UNREADABLE


def test_a_stream_is_read_in_chunks(scorer):
    texts = mixed_texts(25)
    taken = 0

    def source():
        nonlocal taken
        for text in texts:
            taken += 1
            yield text

    readings = scorer.stream(source(), chunk_texts=10)
    first = next(readings)
    assert taken == 10
    np.testing.assert_allclose(
        probabilities([first, *readings]), probabilities(scorer.score(texts)), atol=BATCHING, rtol=0
    )


def test_a_stream_marks_what_it_cut(scorer):
    assert [r.truncated for r in scorer.stream(["up " * 300_000, "up"])] == [True, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_numbers_that_are_not_finite_are_no_score(folder, precision):
    scorer = load(folder, precision=precision)
    whole = scorer.score(["up", "bitcoin rose"])
    ids = scorer.tokens.encode(["down"])[0].ids
    scorer._forward._embeddings.word_embeddings.weight.data[ids[1]] = math.nan
    broken = scorer.score(["up", "down is weak", "bitcoin rose"])
    assert (broken[1].probabilities, broken[1].reason) == (None, NOT_FINITE)
    np.testing.assert_allclose(probabilities([broken[0], broken[2]]), probabilities(whole), atol=1e-2)


class FitsOnly:
    """A forward on a device whose memory takes so many tokens."""

    def __init__(self, inner, tokens):
        self._inner, self._tokens, self.sizes = inner, tokens, []

    def __call__(self, texts):
        size = sum(map(len, texts))
        if size > self._tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(size)
        return self._inner(texts)

    def cost(self, texts, longest, total):
        return total


def test_out_of_memory_halves_the_batch_and_remembers(bert, scorer):
    small = load(bert, tokens=1_000)
    small._forward = FitsOnly(small._forward, 150)
    texts = mixed_texts(40)
    np.testing.assert_allclose(
        probabilities(small.score(texts)), probabilities(scorer.score(texts)), atol=BATCHING, rtol=0
    )
    assert max(small._forward.sizes) <= 150
    assert small.tokens_per_batch < 1_000


def test_one_text_that_does_not_fit_is_a_typed_error(bert):
    small = load(bert)
    small._forward = FitsOnly(small._forward, 5)
    with pytest.raises(ModelOutOfMemory, match="does not fit the memory"):
        small.score(mixed_texts(10))


def test_another_failure_is_not_taken_for_want_of_memory(bert):
    broken = load(bert)

    def fail(texts):
        raise RuntimeError("index out of range in self")

    broken._forward = type("Broken", (), {"__call__": staticmethod(fail), "cost": staticmethod(lambda *_: 1)})()
    with pytest.raises(RuntimeError, match="index out of range"):
        broken.score(["up"])


def test_a_model_nobody_fine_tuned_is_refused(tmp_path):
    with pytest.raises(ModelUnsuitable, match="classifier"):
        load(tiny.masked_language_model(tmp_path))


def test_weights_of_more_layers_than_the_config_says_are_refused(folder):
    tiny.edit_config(folder, num_hidden_layers=2)
    with pytest.raises(ModelUnsuitable, match="too many"):
        load(folder)


def test_weights_of_another_size_are_refused(folder):
    tiny.edit_config(folder, hidden_size=64)
    with pytest.raises(ModelUnsuitable, match="do not belong together"):
        load(folder)


def test_an_architecture_unknown_to_transformers_is_refused(folder):
    tiny.edit_config(folder, model_type="ours", architectures=["OursForSequenceClassification"])
    with pytest.raises(ModelUnsuitable, match="architecture"):
        load(folder)


def test_code_in_a_repository_is_never_run(folder, tmp_path):
    witness = tmp_path / "ran"
    (folder / "modeling_ours.py").write_text(f"open({str(witness)!r}, 'w')\n")
    auto = {"AutoConfig": "modeling_ours.C", "AutoModelForSequenceClassification": "modeling_ours.M"}
    tiny.edit_config(folder, model_type="ours", architectures=["MForSequenceClassification"], auto_map=auto)
    with pytest.raises(ModelUnsuitable):
        load(folder)
    assert not witness.exists()


def test_published_pickles_are_read_as_tensors_only(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    texts = mixed_texts(5)
    expected = [[float(p) for p in row] for row in plain(folder, texts)]
    np.testing.assert_allclose(probabilities(load(folder).score(texts)), expected, atol=1e-5, rtol=0)


def test_a_pickle_that_would_run_code_is_refused(folder, tmp_path):
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(witness),))

    torch.save({"bert.pooler.dense.weight": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises((ModelIncomplete, ModelUnsuitable)):
        load(folder)
    assert not witness.exists()


def test_a_tokenizer_of_another_model_is_refused(folder):
    with (folder / "vocab.txt").open("a") as file:
        file.write("\n" + "\n".join(f"word{n}" for n in range(50)))
    with pytest.raises(ModelUnsuitable, match="tokens"):
        load(folder)


def test_a_broken_tokenizer_is_a_typed_error(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(ModelIncomplete, match="tokenizer"):
        load(folder)


def test_a_precision_that_the_device_has_not(bert):
    with pytest.raises(ModelUnsuitable, match="fp16"):
        load(bert, precision="fp16")


def test_the_padding_and_the_limit_of_a_tokenizers_training_are_not_ours(bert):
    tokenizer = AutoTokenizer.from_pretrained(bert).backend_tokenizer
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(8)
    kept = Tokens(tokenizer, 12, unknown_id=1).encode(["up", "up " * 9, "up " * 40])
    assert [(len(item.ids), item.truncated) for item in kept] == [(3, False), (11, False), (12, True)]


def test_name_revision_and_precision_are_told(bert, scorer):
    model: LocalModel = tiny.local(bert)
    assert (scorer.name, scorer.revision, scorer.precision) == ("tiny", model.revision, "fp32")
    assert scorer.max_tokens == tiny.MAX_TOKENS


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["finbert-mini", "cryptobert-mini"])
def test_the_small_real_models_equal_a_plain_forward(shared_data, name):
    folder = shared_data / "models" / name
    texts = [
        "Profits rose 20% and the outlook is strong.",
        "Panic: bitcoin crashes below $20k 😱",
        "The meeting is on Tuesday.",
    ]
    texts += ["HODL to the moon! " * n for n in (3, 40)]
    readings = load(folder).score(texts)
    np.testing.assert_allclose(probabilities(readings), plain(folder, texts), atol=1e-5, rtol=0)
    assert [max(zip(r.probabilities, CLASSES, strict=True))[1] for r in readings[:2]] == ["positive", "negative"]
