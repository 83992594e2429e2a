"""The ensemble: documented weights, calibrated members, missing ones named; nothing to combine is NULL."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.sentiment import ensemble
from ray_app.sentiment.ensemble import COLDEST, HOTTEST, WEIGHTS, Ensemble, fit_temperature, scaled
from ray_app.sentiment.vocabulary import MODELS, TextScore

GOOD = TextScore(0.6, (0.1, 0.2, 0.7))
BAD = TextScore(-0.6, (0.7, 0.2, 0.1))
GONE = TextScore(None, None, "model unavailable: no weights")


@pytest.mark.parametrize("domain", WEIGHTS)
def test_weights_are_of_known_models_and_sum_to_one(domain: str) -> None:
    assert set(WEIGHTS[domain]) <= set(MODELS)
    assert sum(WEIGHTS[domain].values()) == pytest.approx(1)


def test_members_are_averaged_by_their_weights() -> None:
    said = Ensemble("crypto").combine(
        {"cryptobert": GOOD, "lexicon": BAD, "vader": TextScore(0.5, (0, 0.9, 0.1)), "textblob": TextScore(-0.2)}
    )
    # by hand: .4·(.1 .2 .7) + .35·(.645 .22 .135) + .15·(.05 .475 .475) + .1·(.22 .73 .05)
    assert said.probabilities == pytest.approx((0.29525, 0.30125, 0.4035))
    assert said.score == pytest.approx(0.10825)
    assert said.members == WEIGHTS["crypto"]
    assert said.missing == {}
    assert said.reason is None


def test_missing_members_are_named_and_give_their_weight_to_the_others() -> None:
    said = Ensemble("crypto").combine({"cryptobert": GONE, "lexicon": GOOD, "vader": TextScore(0.0, (0, 1, 0))})
    assert said.members == pytest.approx({"lexicon": 0.7, "vader": 0.3})
    assert said.missing == {"cryptobert": "model unavailable: no weights", "textblob": "not scored yet"}
    assert said.score == pytest.approx(0.357)


def test_one_that_is_no_member_of_the_domain_says_nothing() -> None:
    with_finbert = Ensemble("crypto").combine({"lexicon": GOOD, "finbert": BAD})
    assert with_finbert == Ensemble("crypto").combine({"lexicon": GOOD})
    assert Ensemble("stock").combine({"finbert": BAD}).probabilities == pytest.approx(BAD.probabilities)


def test_nothing_to_combine_is_null_with_the_reasons() -> None:
    said = Ensemble("stock").combine({"finbert": GONE, "cryptobert": GOOD})
    assert said.score is said.probabilities is None
    assert said.members == {}
    assert said.reason is not None
    assert "finbert: model unavailable: no weights" in said.reason
    assert "lexicon: not scored yet" in said.reason


def test_a_score_without_probabilities_of_a_model_that_has_them_is_missing() -> None:
    assert "lexicon" in Ensemble("crypto").combine({"lexicon": TextScore(0.4)}).missing


def test_a_temperature_makes_a_member_less_sure_and_never_turns_it() -> None:
    cool, hot = scaled(GOOD.probabilities, 0.5), scaled(GOOD.probabilities, 4.0)
    assert cool[2] > 0.7 > hot[2]
    assert np.argsort(cool).tolist() == np.argsort(hot).tolist() == [0, 1, 2]
    assert scaled((0.0, 0.4, 0.6), 3.0)[0] == 0.0
    warm = Ensemble("crypto", {"cryptobert": 4.0}).combine({"cryptobert": GOOD})
    assert warm.probabilities == pytest.approx(tuple(hot))


def test_the_revision_is_of_weights_and_temperatures() -> None:
    assert Ensemble("crypto").revision == Ensemble("crypto", {"vader": 1.0}).revision
    assert (
        len({Ensemble("crypto").revision, Ensemble("stock").revision, Ensemble("crypto", {"vader": 2.0}).revision}) == 3
    )


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(KeyError):
        Ensemble("macro")
    with pytest.raises(ValueError, match="temperature of vader"):
        Ensemble("crypto", {"vader": 0.0})


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0, 2.0, 5.0]))
def test_the_temperature_that_made_the_labels_is_found(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (3_000, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((3_000, 1))).sum(axis=1).clip(0, 2)
    overconfident = scaled(true, 1 / temperature)  # what a model says whose logits are T times too large
    assert fit_temperature(overconfident, labels) == pytest.approx(temperature, rel=0.15)


def test_fitting_never_makes_labels_less_likely() -> None:
    rng = np.random.default_rng(1)
    said = rng.dirichlet((1, 1, 1), 300)
    labels = rng.integers(0, 3, 300)

    def loss(temperature: float) -> float:
        return float(-np.log(scaled(said, temperature)[np.arange(300), labels]).mean())

    fitted = fit_temperature(said, labels)
    assert loss(fitted) <= min(loss(t) for t in np.geomspace(COLDEST, HOTTEST, 50)) + 1e-9


def test_labels_that_are_always_right_or_never_end_at_the_bounds() -> None:
    said = [[0.1, 0.2, 0.7]] * 5
    assert fit_temperature(said, [2] * 5) == COLDEST
    assert fit_temperature(said, [0] * 5) == HOTTEST
    assert fit_temperature([[0.0, 0.0, 1.0]] * 5, [0] * 5) == HOTTEST  # sure and wrong: finite all the same


@pytest.mark.parametrize(
    ("probabilities", "labels", "problem"),
    [
        ([], [], "are expected"),
        ([[0.5, 0.5]], [0], "are expected"),
        ([[0.2, 0.2, 0.6]], [0, 1], "are expected"),
        ([[0.2, float("nan"), 0.6]], [0], "sum to 1"),
        ([[0.2, 0.2, 0.2]], [0], "sum to 1"),
        ([[0.2, 0.2, 0.6]], [3], "indices"),
    ],
)
def test_what_cannot_be_fitted_is_refused(probabilities: list, labels: list, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fit_temperature(probabilities, labels)


def test_one_wrong_label_does_not_decide_the_temperature_of_a_model_that_reads_words() -> None:
    sure, wrong = TextScore(0.6, (0.0, 0.4, 0.6)), TextScore(0.6, (0.0, 0.4, 0.6))
    said = [ensemble.member_probabilities("lexicon", one) for one in [sure] * 9 + [wrong]]
    assert fit_temperature(said, [2] * 9 + [0]) < 2


def test_every_score_bound_is_of_a_model_that_enters_by_its_score() -> None:
    for model in ensemble.SCORE_BOUNDS:
        shares = ensemble.member_probabilities(model, TextScore(-0.3, (0.9, 0.1, 0.0)))
        assert shares is not None
        assert shares.tolist() == pytest.approx([0.305, 0.645, 0.05])
