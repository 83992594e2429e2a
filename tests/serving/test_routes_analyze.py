"""Scores of texts that come with the request: what is said, what is null and why, what is refused."""

from __future__ import annotations

import asyncio

import pytest

from ray_app.errors import ScorerBusy
from ray_app.sentiment.analysis import MAX_CHARACTERS, MAX_TEXTS
from ray_app.serving.analyst import Away, Bounded
from ray_app.serving.keys import Level
from tests.serving.gateway_world import FixedAnalyst, market
from tests.serving.test_api import problem

ANALYZE = "/api/v1/sentiment/analyze"
GOOD = {
    "score": 0.5,
    "label": "positive",
    "confidence": 0.625,
    "probabilities": {"negative": 0.125, "neutral": 0.25, "positive": 0.625},
    "reason": None,
}


@pytest.fixture
def world(sqlite_db):
    return market(sqlite_db)


async def post(world, path, body, level=Level.readonly):
    async with world.client(level) as client:
        return await client.post(path, json=body)


async def test_each_model_of_the_domain_and_the_ensemble(world):
    response = await post(world, ANALYZE, {"texts": ["up", "down"], "domain": "stock"})
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert (body["domain"], body["count"], body["revisions"], body["quality"]) == (
        "stock",
        2,
        {"lexicon": "1-abc"},
        "partial",
    )
    first = body["data"][0]
    assert first["models"]["lexicon"] == GOOD
    assert first["models"]["finbert"] == dict.fromkeys(GOOD) | {"reason": FixedAnalyst.AWAY.reason}
    assert first["members"] == {"lexicon": 1.0}
    assert first["missing"].keys() == {"finbert", "vader", "textblob"}
    assert first["label"] == "positive"
    assert world.analyst.asked == [(("up", "down"), "stock")]


async def test_empty_and_too_long_texts_are_null_with_the_reason_and_nobody_is_asked_of_them(world):
    response = await post(world, ANALYZE, {"texts": ["", " \n", "x" * (MAX_CHARACTERS + 1), "up"]})
    reasons = [one["reason"] for one in response.json()["data"]]
    assert reasons == ["empty", "empty", f"longer than {MAX_CHARACTERS} characters", None]
    assert [one["score"] is None for one in response.json()["data"]] == [True, True, True, False]
    assert world.analyst.asked == [(("up",), "crypto")]
    nothing = await post(world, ANALYZE, {"texts": [""]})
    assert nothing.json()["data"][0]["reason"] == "empty"
    assert len(world.analyst.asked) == 1


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (ANALYZE, {"texts": []}, "texts"),
        (ANALYZE, {"texts": ["a"] * (MAX_TEXTS + 1)}, "texts"),
        (ANALYZE, {"texts": ["a"], "domain": "weather"}, "domain"),
        (ANALYZE, {"texts": ["a", None]}, "texts.1"),
        (ANALYZE, {"text": "a"}, "texts"),
        ("/analyze-sentiment", {"text": ""}, "text"),
        ("/analyze-sentiment", {"text": "x" * (MAX_CHARACTERS + 1)}, "text"),
        ("/batch-analyze", {"texts": ["a"] * (MAX_TEXTS + 1)}, "texts"),
    ],
)
async def test_what_is_no_request_is_422_and_names_the_field(world, path, body, named):
    found = problem(await post(world, path, body), 422, "VALIDATION_ERROR")
    assert named in [error["name"] for error in found["errors"]]
    assert world.analyst.asked == []


async def test_a_body_over_a_mebibyte_is_413(world):
    problem(await post(world, ANALYZE, {"texts": ["x" * (1 << 20)]}), 413, "PAYLOAD_TOO_LARGE")


async def test_half_an_emoji_is_scored_and_answered(world):
    async with world.client() as client:
        body = b'{"text": "moon \\ud83d soon \\ud83d\\ude80"}'
        response = await client.post("/analyze-sentiment", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    assert response.json()["text"] == "moon \N{REPLACEMENT CHARACTER} soon \N{ROCKET}"


async def test_the_earlier_fields_are_there_and_what_a_language_model_said_is_null(world):
    body = (await post(world, "/analyze-sentiment", {"text": "up", "symbol": "bitcoin"})).json()
    assert (body["symbol"], body["text"], body["label"]) == ("BTC", "up", "positive")
    assert body["cryptobert_score"] is None
    assert body["reasons"]["cryptobert_score"] == FixedAnalyst.AWAY.reason
    for name in ("emotional_context", "market_psychology", "enhanced_score", "recommendation", "reasoning"):
        assert body[name] is None
        assert body["reasons"][name]
    several = (await post(world, "/batch-analyze", {"texts": ["up", ""]})).json()
    assert several["count"] == 2
    assert several["results"][0] == body | {"symbol": None}
    assert body["scored_text"] == "up"
    assert several["results"][1]["reasons"]["score"] == "empty"


async def test_of_a_text_that_names_several_assets_the_words_about_the_symbol_are_scored(world):
    both = "Bitcoin surges to a record while Ethereum plunges below support"
    body = (await post(world, "/analyze-sentiment", {"text": both, "symbol": "ETH"})).json()
    assert (body["text"], body["scored_text"]) == (both, "Ethereum plunges below support")
    other = (await post(world, "/analyze-sentiment", {"text": both, "symbol": "NOV"})).json()
    assert other["scored_text"] == both, "it is not named: the whole text, as before"
    assert [texts for texts, _ in world.analyst.asked] == [("Ethereum plunges below support",), (both,)]


async def test_an_unknown_symbol_is_404(world):
    problem(await post(world, "/analyze-sentiment", {"text": "up", "symbol": "nosuch"}), 404, "INVALID_SYMBOL")


@pytest.mark.parametrize("path", [ANALYZE, "/analyze-sentiment", "/batch-analyze"])
async def test_back_pressure_is_503_with_the_time_to_wait(world, path):
    world.analyst.error = ScorerBusy("too many texts wait to be scored", 7)
    response = await post(world, path, {"text": "up"} if path == "/analyze-sentiment" else {"texts": ["up"]})
    assert "too many texts wait" in problem(response, 503, "SERVICE_UNAVAILABLE")["detail"]
    assert response.headers["retry-after"] == "7"


async def test_without_the_application_it_is_503(world):
    world.deps.analyst = Away()
    response = await post(world, ANALYZE, {"texts": ["up"]})
    problem(response, 503, "SERVICE_UNAVAILABLE")
    assert response.headers["retry-after"] == "5"


class Slow:
    """An analyst that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def analyze(self, texts, domain):
        await self.go.wait()
        return await FixedAnalyst().analyze(texts, domain)


async def test_only_so_many_wait_at_once_and_only_so_long():
    slow = Slow()
    bounded = Bounded(slow, at_once=2)
    waiting = [asyncio.create_task(bounded.analyze(["a"], "crypto")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ScorerBusy, match="too many wait"):
        await bounded.analyze(["b"], "crypto")
    slow.go.set()
    assert [len((await one).texts) for one in waiting] == [1, 1]
    assert len((await bounded.analyze(["b"], "crypto")).texts) == 1
    with pytest.raises(ScorerBusy, match="not scored within"):
        await Bounded(Slow(), deadline_s=0.01).analyze(["a"], "crypto")
