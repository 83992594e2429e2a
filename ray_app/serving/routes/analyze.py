"""What models say of texts that come with the request: one, or many. Nothing of them is stored."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ray_app.assets import Asset, AssetRegistry
from ray_app.clock import iso
from ray_app.mentions import matcher_of
from ray_app.sentiment import stance
from ray_app.sentiment.analysis import MAX_CHARACTERS, MAX_TEXTS, Analysis, Said, label
from ray_app.sentiment.vocabulary import CLASSES, TextScore
from ray_app.serving.deps import GatewayDeps
from ray_app.serving.keys import Level
from ray_app.serving.routes.answers import JSON, Gateway, dumps, requires
from ray_app.serving.routes.prices import ok

router = APIRouter(tags=["sentiment"], dependencies=[Depends(requires(Level.readonly))])

Row = dict[str, Any]
Text = Annotated[str, Field(description="models read about its first 512 tokens")]

EMPTY = "empty"
TOO_LONG = f"longer than {MAX_CHARACTERS} characters"
#: what the earlier system's language model said beside the score
_OF_A_LANGUAGE_MODEL = ("emotional_context", "market_psychology", "enhanced_score", "recommendation", "reasoning")


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("texts", "text", mode="before", check_fields=False)
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        """Half an emoji, which cut JSON leaves, becomes U+FFFD: no answer could hold it."""
        return [_whole(one) for one in value] if isinstance(value, list) else _whole(value)


class TextsOrder(_Order):
    """Texts to score."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_TEXTS, examples=[["Bitcoin surges to a record"]])
    domain: Literal["crypto", "stock"] = Field("crypto", description="what they are about: decides who is asked")


class TextOrder(_Order):
    """One text to score."""

    text: Text = Field(min_length=1, max_length=MAX_CHARACTERS, examples=["Bitcoin surges to a record"])
    symbol: str | None = Field(None, min_length=1, max_length=150, description="what it is about; repeated")


class EarlierTextsOrder(_Order):
    """Texts to score."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_TEXTS)


_SCORE: Row = {
    "score": 0.64,
    "label": "positive",
    "confidence": 0.7,
    "probabilities": {"negative": 0.06, "neutral": 0.24, "positive": 0.7},
    "reason": None,
}
_UNKNOWN: Row = dict.fromkeys(("score", "label", "confidence", "probabilities"))
_EXAMPLE: Row = {
    "domain": "crypto",
    "data": [
        _SCORE
        | {
            "members": {"lexicon": 1.0},
            "missing": {"cryptobert": "model unavailable: it is being fetched or loaded"},
            "models": {
                "cryptobert": _UNKNOWN | {"reason": "model unavailable: it is being fetched or loaded"},
                "lexicon": _SCORE,
            },
        }
    ],
    "count": 1,
    "revisions": {"lexicon": "1-2f9c…"},
    "as_of": "2026-11-24T08:00:00Z",
    "source": "sentiment",
    "quality": "partial",
}


@router.post("/api/v1/sentiment/analyze", summary="Score texts", responses=ok("What each model says.", _EXAMPLE))
async def analyze(order: TextsOrder, deps: Gateway) -> Response:
    """What each model of the domain says of each text, and their ensemble. What could not be scored is null with its
    `reason`; a model that is not here is null in every text, and `missing` of the ensemble.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    found, texts = await _ask(deps, order.texts, order.domain)
    complete = not any(one["missing"] for one in texts)
    return _answer(
        {
            "domain": order.domain,
            "data": texts,
            "count": len(texts),
            "revisions": dict(found.revisions),
            "as_of": iso(deps.clock.now_ms()),
            "source": "sentiment",
            "quality": "complete" if complete else "partial",
        }
    )


@router.post("/analyze-sentiment", summary="Score one text, as the earlier system did")
async def analyze_sentiment(order: TextOrder, deps: Gateway) -> Response:
    """The earlier side service's fields. What its language model added is null: none runs here. Of a text that names
    `symbol` beside other assets only the words about it are scored; `scored_text` shows them.
    """  # noqa: D205 - shown as one paragraph in OpenAPI
    registry = deps.registry.current
    asset = registry.resolve(order.symbol).asset if order.symbol is not None else None
    words = await asyncio.to_thread(_words_about, asset, order.text, registry) if asset is not None else None
    _, texts = await _ask(deps, [order.text if words is None else words], "crypto")
    symbol = asset.symbol if asset is not None else None
    return _answer(_earlier(order.text, symbol, words, texts[0], deps.clock.now_ms()))


@router.post("/batch-analyze", summary="Score texts, as the earlier system did")
async def batch_analyze(order: EarlierTextsOrder, deps: Gateway) -> Response:
    """A list of what `/analyze-sentiment` answers."""
    _, texts = await _ask(deps, order.texts, "crypto")
    now_ms = deps.clock.now_ms()
    rows = [_earlier(text, None, None, one, now_ms) for text, one in zip(order.texts, texts, strict=True)]
    return _answer({"results": rows, "count": len(rows)})


async def _ask(deps: GatewayDeps, texts: list[str], domain: str) -> tuple[Analysis, list[Row]]:
    """What is said of each text; empty and too long ones are nobody's to score."""
    asked = [text for text in texts if _refusal(text) is None]
    found = await deps.analyst.analyze(asked, domain) if asked else Analysis([], {})
    said = iter(found.texts)
    rows = []
    for text in texts:
        reason = _refusal(text)
        rows.append(_shown(next(said)) if reason is None else _nothing(reason))
    return found, rows


def _refusal(text: str) -> str | None:
    return EMPTY if not text.strip() else TOO_LONG if len(text) > MAX_CHARACTERS else None


def _nothing(reason: str) -> Row:
    return _UNKNOWN | {"reason": reason, "members": {}, "missing": {}, "models": {}}


def _shown(said: Said) -> Row:
    opinion = said.opinion
    together = TextScore(opinion.score, opinion.probabilities, opinion.reason)
    return _score("", together) | {
        "members": dict(opinion.members),
        "missing": dict(opinion.missing),
        "models": {name: _score(name, score) for name, score in said.scores.items()},
    }


def _score(model: str, said: TextScore) -> Row:
    shares = said.probabilities
    return {
        "score": said.score,
        "label": label(said.score, shares, model),
        "confidence": said.confidence,
        "probabilities": dict(zip(CLASSES, shares, strict=True)) if shares is not None else None,
        "reason": said.reason,
    }


def _words_about(asset: Asset, text: str, registry: AssetRegistry) -> str | None:
    """What the text says of the asset, where it names others, too; None: all of it, or nothing by name."""
    windows = stance.windows(text, matcher_of(registry).places(text))
    about = next((window for window in windows if window.asset_id == asset.asset_id), None)
    return about.text if about is not None and about.spans is not None else None


def _earlier(text: str, symbol: str | None, scored: str | None, found: Row, now_ms: int) -> Row:
    cryptobert = found["models"].get("cryptobert", _UNKNOWN | {"reason": found["reason"]})
    reasons = {"cryptobert_score": cryptobert["reason"], "score": found["reason"]}
    reasons |= dict.fromkeys(_OF_A_LANGUAGE_MODEL, "this node runs no language model")
    return {
        "symbol": symbol,
        "text": text,
        "scored_text": text if scored is None else scored,
        "cryptobert_score": cryptobert["score"],
        "cryptobert_confidence": cryptobert["confidence"],
        "score": found["score"],
        "label": found["label"],
        "confidence": found["confidence"],
        **dict.fromkeys(_OF_A_LANGUAGE_MODEL),
        "reasons": {name: why for name, why in reasons.items() if why is not None},
        "timestamp": iso(now_ms),
    }


def _whole(text: Any) -> Any:
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _answer(content: Row) -> Response:
    return Response(dumps(content), media_type=JSON, headers={"cache-control": "no-store"})
