"""Texts that somebody waits for: scored together while others wait, refused when too many do, never half."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ray_app.errors import ModelMissing, ModelOutOfMemory, ModelUnsuitable
from ray_app.scoring.online import NOT_WANTED, Desk, Limits, Shelf
from ray_app.scoring.plans import ModelPlan
from ray_app.sentiment.analysis import LOADING, Analysis, Busy, Scores
from ray_app.sentiment.vocabulary import TextScore
from ray_app.settings import Settings

SAID = TextScore(0.5, (0.125, 0.25, 0.625))


class Models:
    """Models that say the same of every text. ``missing``: plans that fail; ``gate``: what a scoring waits for."""

    def __init__(self) -> None:
        self.missing: dict[str, Exception] = {}
        self.fetched: list[str] = []
        self.calls: list[tuple[str, list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.failure: Exception | None = None

    def plan(self, settings: Settings, name: str, *, fetch: bool = False) -> ModelPlan:
        if fetch and name in self.missing:
            self.fetched.append(name)
        if name in self.missing:
            raise self.missing[name]
        return ModelPlan(name, f"{name}-1")

    def open(self, plan: ModelPlan):
        def score(texts: Sequence[str]) -> list[TextScore]:
            self.calls.append((plan.name, list(texts)))
            self.begun.set()
            assert self.gate.wait(10)
            if self.failure is not None:
                raise self.failure
            return [SAID] * len(texts)

        return score

    def shelf(self, *names: str, fetch: bool = True) -> Shelf:
        settings = Settings(_env_file=None, sentiment_models=",".join(names))
        return Shelf(settings, fetch=fetch, planned=self.plan, opened=self.open)


@pytest.fixture
def models() -> Models:
    return Models()


@asynccontextmanager
async def working(shelf: Shelf, limits: Limits | None = None) -> AsyncIterator[Desk]:
    desk = Desk(shelf, limits)
    task = asyncio.create_task(desk.run())
    yield desk
    task.cancel()
    await asyncio.wait([task])


async def waiting_until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_before_a_model_is_opened_its_scores_are_null_and_say_why(models):
    async with working(models.shelf("finbert", "lexicon")) as desk:
        found = await desk.analyze(["a"], "stock")
    assert isinstance(found, Analysis)
    assert {name: said.reason for name, said in found.texts[0].scores.items()} == {
        "finbert": f"model unavailable: {LOADING}",
        "lexicon": f"model unavailable: {LOADING}",
        "vader": f"model unavailable: {NOT_WANTED}",
        "textblob": f"model unavailable: {NOT_WANTED}",
    }
    assert found.texts[0].opinion.score is None
    assert found.revisions == {}


async def test_a_model_that_cannot_be_had_is_named_and_the_others_answer(models):
    models.missing["finbert"] = ModelMissing("finbert", "/secret/folder: no weights")
    shelf = models.shelf("finbert", "lexicon")
    opening = asyncio.create_task(shelf.run())
    await waiting_until(lambda: "lexicon" in shelf.opened and shelf.missing["finbert"] != LOADING)
    async with working(shelf) as desk:
        found = await desk.analyze(["a", "b"], "stock")
    opening.cancel()
    first = found.texts[0]
    assert first.scores["lexicon"] == SAID
    assert first.scores["finbert"].score is None
    assert first.scores["finbert"].reason.startswith("model unavailable: its weights are not on this node")
    assert "/secret" not in str(found)
    assert set(first.opinion.members) == {"lexicon"}
    assert first.opinion.missing["finbert"] == first.scores["finbert"].reason
    assert found.revisions == {"lexicon": "lexicon-1"}
    assert models.fetched == ["finbert"]


@pytest.mark.parametrize("error", [ModelUnsuitable("finbert", "stars"), RuntimeError("torch broke")])
async def test_what_fails_otherwise_is_not_fetched_again_at_once_and_harms_no_other(models, error):
    models.missing["finbert"] = error
    shelf = models.shelf("finbert", "lexicon")
    opening = asyncio.create_task(shelf.run())
    await waiting_until(lambda: "lexicon" in shelf.opened and shelf.missing["finbert"] != LOADING)
    assert models.fetched == ["finbert"]
    opening.cancel()


async def test_a_node_that_may_not_fetch_does_not(models):
    models.missing["finbert"] = ModelMissing("finbert", "not here")
    shelf = models.shelf("finbert", fetch=False)
    opening = asyncio.create_task(shelf.run())
    await waiting_until(lambda: shelf.missing["finbert"] != LOADING)
    opening.cancel()
    assert models.fetched == []


async def opened(models: Models, *names: str) -> Shelf:
    shelf = models.shelf(*names)
    await shelf.run()
    return shelf


async def test_what_came_during_a_batch_is_the_next_one_and_a_text_is_scored_once_in_it(models):
    models.gate.clear()
    async with working(await opened(models, "lexicon")) as desk:
        first = asyncio.create_task(desk.score("lexicon", ["a"]))
        await waiting_until(models.begun.is_set)
        others = [asyncio.create_task(desk.score("lexicon", texts)) for texts in (["b", "c"], ["c", "c"], ["d"])]
        await waiting_until(lambda: desk.waiting == 6)
        models.gate.set()
        found = [await one for one in (first, *others)]
    assert models.calls == [("lexicon", ["a"]), ("lexicon", ["b", "c", "d"])]
    assert [len(one.scores) for one in found] == [1, 2, 2, 1]
    assert desk.waiting == 0


async def test_a_batch_ends_with_the_request_that_would_make_it_too_large(models):
    models.gate.clear()
    async with working(await opened(models, "lexicon"), Limits(batch_texts=3)) as desk:
        tasks = [asyncio.create_task(desk.score("lexicon", ["a"]))]
        await waiting_until(models.begun.is_set)
        large = [str(n) for n in range(5)]
        tasks += [asyncio.create_task(desk.score("lexicon", texts)) for texts in (["b", "c"], ["d", "e"], large)]
        await waiting_until(lambda: desk.waiting == 10)
        models.gate.set()
        for task in tasks:
            await task
    assert [texts for _, texts in models.calls] == [["a"], ["b", "c"], ["d", "e"], large]


async def test_beyond_the_limit_a_request_is_refused_with_the_time_to_wait(models):
    models.gate.clear()
    async with working(await opened(models, "lexicon"), Limits(waiting_texts=4)) as desk:
        first = asyncio.create_task(desk.score("lexicon", ["a", "b", "c"]))
        await waiting_until(models.begun.is_set)
        refused = await desk.analyze(["d", "e"], "crypto")
        models.gate.set()
        assert await first == Scores("lexicon-1", [SAID] * 3)
        assert len((await desk.analyze(["d"] * 9, "crypto")).texts) == 9, "a large one is taken when nobody waits"
    assert isinstance(refused, Busy)
    assert 1 <= refused.retry_after_s <= 60


async def test_nothing_is_scored_for_a_client_that_has_gone(models):
    models.gate.clear()
    async with working(await opened(models, "lexicon")) as desk:
        first = asyncio.create_task(desk.score("lexicon", ["a"]))
        await waiting_until(models.begun.is_set)
        gone = asyncio.create_task(desk.score("lexicon", ["b"]))
        await waiting_until(lambda: desk.waiting == 2)
        gone.cancel()
        await asyncio.wait([gone])
        assert desk.waiting == 1
        models.gate.set()
        await first
        await desk.score("lexicon", ["c"])
    assert [texts for _, texts in models.calls] == [["a"], ["c"]]


async def test_a_model_that_fails_scores_nothing_the_others_do_and_so_does_it_afterwards(models):
    shelf = await opened(models, "lexicon", "finbert")
    async with working(shelf) as desk:
        models.failure = RuntimeError("CUDA error at /dev/x")
        for _ in range(2):
            found = await desk.score("finbert", ["a"])
            assert found.unavailable == "it fails; the node's log says how"
        assert shelf.failures == {"finbert": 2}  # the replica's health looks at it
        models.failure = None
        assert await desk.score("finbert", ["a"]) == Scores("finbert-1", [SAID])
        assert shelf.failures == {}
        models.failure = ModelOutOfMemory("lexicon", "the card at /dev/x is full")
        said = await desk.score("lexicon", ["a"])
        assert said.scores == [TextScore(None, None, "model unavailable: it does not fit the memory of its device")]
        assert said.unavailable == "it does not fit the memory of its device"
        models.failure = None
        assert await desk.score("lexicon", ["a"]) == Scores("lexicon-1", [SAID])
        assert desk.waiting == 0
