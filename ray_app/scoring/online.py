"""Texts that somebody waits for: models opened in the background, and requests scored together.

Nothing here knows Ray. :class:`Shelf` holds the models: lexicons at once, weights when they are here. :class:`Desk`
takes requests and scores in one go whatever has come while it was at the last ones. So a batch is as large as the load,
a lone request waits for nobody, and no timer is needed. (Serve's own batching closes a batch some milliseconds after
its first request, also while the one before is still being scored, and counts requests, not texts.)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ray_app.errors import ModelIncomplete, ModelMissing, ModelOutOfMemory, ModelUnavailable, ModelUnsuitable
from ray_app.scoring.plans import ModelPlan, Score, open_model, plan
from ray_app.sentiment.analysis import LOADING, UNAVAILABLE, Analysis, Busy, Said, Scores
from ray_app.sentiment.ensemble import WEIGHTS, Ensemble
from ray_app.sentiment.vocabulary import LEXICONS, TextScore
from ray_app.settings import Settings

log = logging.getLogger(__name__)

#: wall seconds until a model that could not be had is looked for again
RETRY_S: Final = 600.0

#: what callers are told; the error itself names folders, and goes to the log
_PUBLIC: Final[dict[type[ModelUnavailable], str]] = {
    ModelMissing: "its weights are not on this node; they are looked for again within ten minutes",
    ModelIncomplete: "its files are incomplete or unreadable; the node's log says which",
    ModelUnsuitable: "its files are no classifier of texts that this node can run; the node's log says why",
    ModelOutOfMemory: "it does not fit the memory of its device",
}
_BROKEN: Final = "it cannot be loaded; the node's log says why"
_FAILS: Final = "it fails; the node's log says how"
NOT_WANTED: Final = "it is not among SENTIMENT_MODELS"


class Opened(NamedTuple):
    """A model that can be asked."""

    revision: str
    score: Score


class Shelf:
    """The models of a process. ``missing``: why one cannot be asked, until it is ``opened``.

    ``device``: cpu or cuda. ``fetch``: whether weights may be brought from where the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device: str = "cpu",
        fetch: bool = True,
        planned: Callable[..., ModelPlan] = plan,
        opened: Callable[[ModelPlan], Score] = open_model,
    ) -> None:
        self._settings = settings
        self._device = device
        self._fetch = fetch
        self._plan = planned
        self._open = opened
        self.opened: dict[str, Opened] = {}
        members = {model for weights in WEIGHTS.values() for model in weights}
        #: batches in a row in which weights failed, nobody knows why, by model
        self.failures: dict[str, int] = {}
        self.missing = {name: LOADING if name in settings.sentiment_models else NOT_WANTED for name in members}

    async def run(self) -> None:
        """Open what is wanted, lexicons first; what cannot be had is tried again now and then. Ends when all are."""
        waiting = sorted(self._settings.sentiment_models, key=lambda name: name not in LEXICONS)
        while waiting:
            waiting = [name for name in waiting if not await self._try(name)]
            if waiting:
                await asyncio.sleep(RETRY_S)

    async def _try(self, name: str) -> bool:
        try:
            self.opened[name] = await asyncio.to_thread(self._opened, name)
        except ModelUnavailable as error:
            log.warning("%s", error)
            self.missing[name] = _public(error)
            return False
        except Exception:  # whatever torch or a file system raises: the other models answer without this one
            log.exception("%s cannot be loaded", name)
            self.missing[name] = _BROKEN
            return False
        self.missing.pop(name, None)
        log.info("%s (%s) can be asked", name, self.opened[name].revision)
        return True

    def _opened(self, name: str) -> Opened:
        found = self._plan(self._settings, name, fetch=self._fetch)
        return Opened(found.revision, self._open(replace(found, device=self._device)))

    def say(self, name: str, texts: Sequence[str]) -> list[TextScore]:
        """What a model says of each text (blocking); where it cannot be asked nothing, and why."""
        found = self.opened.get(name)
        if found is None:
            return [_unavailable(self.missing.get(name, LOADING))] * len(texts)
        try:
            said = found.score(texts)
        except ModelUnavailable as error:
            log.warning("%s", error)
            return [_unavailable(_public(error))] * len(texts)
        except Exception:  # of torch, or of a device that is lost: the other models answer without this one
            log.exception("%s fails", name)
            if name not in LEXICONS:
                self.failures[name] = self.failures.get(name, 0) + 1
            return [_unavailable(_FAILS)] * len(texts)
        self.failures.pop(name, None)
        return said


def _unavailable(why: str) -> TextScore:
    return TextScore(None, None, UNAVAILABLE + why)


def _public(error: ModelUnavailable) -> str:
    return _PUBLIC.get(type(error), _BROKEN)


@dataclass(frozen=True, slots=True)
class Limits:
    """``batch_texts``: scored in one go, about; ``waiting_texts``: beyond so many a request is refused."""

    batch_texts: int = 128
    waiting_texts: int = 1_024

    def __post_init__(self) -> None:
        if self.batch_texts < 1 or self.waiting_texts < 1:
            raise ValueError(f"batch_texts and waiting_texts are 1 or more, not {self}")


@dataclass(slots=True)
class _Order:
    """Texts that somebody waits for, and which models are to score them."""

    texts: Sequence[str]
    models: tuple[str, ...]
    done: asyncio.Future[dict[str, list[TextScore]]]


class Desk:
    """Takes requests and answers them; :meth:`run` does the work, one batch at a time."""

    def __init__(self, shelf: Shelf, limits: Limits | None = None) -> None:
        self._shelf = shelf
        self.limits = limits or Limits()
        self._orders: deque[_Order] = deque()
        self._wake = asyncio.Event()
        self._ensembles = {domain: Ensemble(domain) for domain in WEIGHTS}
        #: texts that wait or are being scored
        self.waiting = 0
        #: texts a second, of the last batches
        self._rate: float | None = None

    async def analyze(self, texts: Sequence[str], domain: str) -> Analysis | Busy:
        """What every model of the domain and the ensemble say of the texts. KeyError: no such domain."""
        models = tuple(WEIGHTS[domain])
        scores = await self._asked(texts, models)
        if isinstance(scores, Busy):
            return scores
        said = [dict(zip(models, one, strict=True)) for one in zip(*(scores[name] for name in models), strict=True)]
        revisions = {name: self._shelf.opened[name].revision for name in models if name in self._shelf.opened}
        combine = self._ensembles[domain].combine
        return Analysis([Said(of_text, combine(of_text)) for of_text in said], revisions)

    async def score(self, model: str, texts: Sequence[str]) -> Scores | Busy:
        """What one model says of the texts; every score NULL where there is no such model."""
        revision = self._shelf.opened[model].revision if model in self._shelf.opened else None
        scores = await self._asked(texts, (model,))
        return scores if isinstance(scores, Busy) else Scores(revision, scores[model])

    async def _asked(self, texts: Sequence[str], models: tuple[str, ...]) -> dict[str, list[TextScore]] | Busy:
        if self.waiting and self.waiting + len(texts) > self.limits.waiting_texts:
            return Busy(self._patience_s())
        order = _Order(texts, models, asyncio.get_running_loop().create_future())
        self._orders.append(order)
        self.waiting += len(texts)
        self._wake.set()
        try:
            return await order.done
        finally:
            self.waiting -= len(texts)

    def _patience_s(self) -> int:
        """Seconds until half of what waits is done, as far as the last batches tell."""
        return max(1, min(60, math.ceil(self.waiting / 2 / self._rate))) if self._rate else 5

    async def run(self) -> None:
        """Score for as long as it is not cancelled. A batch that fails is its requests' failure, and nobody else's."""
        while True:
            self._wake.clear()
            orders = self._take()
            if not orders:
                await self._wake.wait()
                continue
            started = time.monotonic()
            try:
                answers = await asyncio.to_thread(self._answers, orders)
            except Exception as error:
                log.exception("a batch of %d requests failed", len(orders))
                for order in orders:
                    if not order.done.done():
                        order.done.set_exception(error)
                continue
            rate = sum(len(order.texts) for order in orders) / max(time.monotonic() - started, 1e-6)
            self._rate = rate if self._rate is None else 0.8 * self._rate + 0.2 * rate
            for order, answer in zip(orders, answers, strict=True):
                if not order.done.done():
                    order.done.set_result(answer)

    def _take(self) -> list[_Order]:
        """The next orders, first come, first served; without those whose client has gone."""
        taken: list[_Order] = []
        total = 0
        while self._orders and (not taken or total + len(self._orders[0].texts) <= self.limits.batch_texts):
            order = self._orders.popleft()
            if not order.done.done():
                taken.append(order)
                total += len(order.texts)
        return taken

    def _answers(self, orders: Sequence[_Order]) -> list[dict[str, list[TextScore]]]:
        """Each model is asked once, for the distinct texts of all who want it (blocking)."""
        said = {model: self._said(model, orders) for model in {name for order in orders for name in order.models}}
        return [{model: [said[model][text] for text in order.texts] for model in order.models} for order in orders]

    def _said(self, model: str, orders: Iterable[_Order]) -> Mapping[str, TextScore]:
        texts = list(dict.fromkeys(text for order in orders if model in order.models for text in order.texts))
        return dict(zip(texts, self._shelf.say(model, texts), strict=True))
