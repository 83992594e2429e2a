"""A job that has its texts scored by the application: patient where it may help, never a score of another revision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError

from ray_app.errors import ModelUnavailable
from ray_app.scoring.deployed import PATIENCE_S, PIECE, open_deployed
from ray_app.scoring.plans import ModelPlan
from ray_app.sentiment.analysis import LOADING, UNAVAILABLE, Busy, Scores
from ray_app.sentiment.vocabulary import TextScore

SAID = TextScore(0.5, (0.125, 0.25, 0.625))
PLAN = ModelPlan("finbert", "r1")


def unavailable(why: str, revision: str | None = None) -> Any:
    return lambda texts: Scores(revision, [TextScore(None, None, UNAVAILABLE + why)] * len(texts))


def answers(texts: Sequence[str]) -> Scores:
    return Scores("r1", [SAID] * len(texts))


class Application:
    """Says what it is told to, the last thing for ever; time passes only where somebody sleeps."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[int] = []
        self.slept: list[float] = []

    def ask(self, model: str, texts: Sequence[str]) -> Any:
        assert model == "finbert"
        self.asked.append(len(texts))
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(said, Exception):
            raise said
        return said(texts) if callable(said) else said

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        return open_deployed(PLAN, self.ask, sleep=self.slept.append, now=lambda: sum(self.slept))(texts)


def test_texts_go_in_pieces_so_that_others_get_a_turn():
    application = Application(answers)
    assert application.score(["a"] * (2 * PIECE + 5)) == [SAID] * (2 * PIECE + 5)
    assert application.asked == [PIECE, PIECE, 5]


def test_a_full_queue_a_replica_that_starts_and_a_model_that_loads_are_waited_for():
    application = Application(
        BackPressureError(1, 1), Busy(7), TimeoutError(), unavailable(LOADING), unavailable(LOADING, "r1"), answers
    )
    assert application.score(["a"]) == [SAID]
    assert application.slept == [1, 7, 1, 1, 1]


@pytest.mark.parametrize("script", [Busy(60), BackPressureError(1, 1), TimeoutError(), unavailable(LOADING)])
def test_patience_ends(script):
    application = Application(script)
    with pytest.raises(ModelUnavailable, match="the next run tries again"):
        application.score(["a"])
    assert PATIENCE_S - 60 <= sum(application.slept) <= PATIENCE_S


@pytest.mark.parametrize("revision", [None, "r1"])
def test_a_model_that_cannot_be_had_gives_no_scores(revision):
    application = Application(unavailable("it does not fit the memory of its device", revision))
    with pytest.raises(ModelUnavailable, match="does not fit the memory"):
        application.score(["a"])
    assert application.slept == []


def test_another_revision_s_scores_are_not_taken():
    with pytest.raises(ModelUnavailable, match="revision r0, the files here are r1"):
        Application(lambda texts: Scores("r0", [SAID] * len(texts))).score(["a"])
