"""A run: every model that can be had scores what it has not, one after the other, and says how far it is."""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ray_app.collection.control import LEASE_TTL_S, RENEW_S
from ray_app.collection.lease import Lease, LeaseKeeper
from ray_app.errors import LeaseLost, LeaseTaken, ModelUnavailable, StorageError
from ray_app.scoring.pages import Outcome, Page, pages
from ray_app.scoring.plans import ModelPlan, plan
from ray_app.settings import Settings
from ray_app.storage.engine import Database

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model is: ``parts`` done of the ``total`` listed; words ``scored`` now, and ``without`` a score.

    ``unavailable``: why the model cannot be had, or could not go on; what it has not scored stays unscored.
    """

    model: str
    revision: str | None = None
    parts: int = 0
    total: int = 0
    scored: int = 0
    without: int = 0
    unavailable: str | None = None

    @property
    def percent(self) -> float:
        """Share of the listed parts that are done, percent."""
        return 100.0 if self.total == 0 else 100.0 * self.parts / self.total

    def after(self, outcome: Outcome) -> Progress:
        """With one page more."""
        if outcome.failed is not None:
            return replace(self, unavailable=outcome.failed)
        return replace(
            self,
            parts=self.parts + outcome.parts,
            scored=self.scored + outcome.scored,
            without=self.without + outcome.without,
        )

    def __str__(self) -> str:
        said = f"{self.model}: {self.percent:.1f} % ({self.parts} of {self.total} parts of texts), {self.scored} scored"
        if self.without:
            said += f", {self.without} of them have nothing to score"
        return said if self.unavailable is None else f"{said}; model unavailable: {self.unavailable}"


#: does pages of a model and gives what became of each, in any order
Pool = Callable[[ModelPlan, Sequence[Page], str], Iterable[Outcome]]
Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to score. ``since``: parts known from then on, ms; ``limit``: parts of each model, about.

    ``rescore``: what the revision at hand (``revision``: of the hub, instead of the settings') has not scored, though
    another may have; the other's scores stay. ``fetch``: bring weights that are not here.
    """

    models: Sequence[str]
    since: int = 0
    rescore: bool = False
    revision: str | None = None
    limit: int | None = None
    fetch: bool = False


def score_texts(
    settings: Settings, db: Database, wanted: Wanted, pool: Pool, report: Report | None = None
) -> dict[str, Progress]:
    """Score what is wanted, model after model; the last progress of each.

    Whatever ends it, the pages that were done are stored, and the next run goes on with the others. A model that cannot
    be had, that another run is at, or that fails leaves the others their turn. StorageError as ever.
    """
    run_id = uuid.uuid4().hex
    done: dict[str, Progress] = {}
    for name in wanted.models:
        try:
            model = plan(settings, name, wanted.revision, fetch=wanted.fetch)
            with _alone(db, f"score:{name}", run_id):
                done[name] = _score(db, model, wanted, pool, run_id, report or _log)
        except StorageError:
            raise
        except (ModelUnavailable, LeaseTaken) as error:
            done[name] = Progress(name, unavailable=error.reason if isinstance(error, ModelUnavailable) else str(error))
            (report or _log)(done[name])
        except Exception:  # whatever Ray or torch raises
            log.exception("%s cannot go on", name)
            done[name] = Progress(name, unavailable="it failed; the log says how")
            (report or _log)(done[name])
    return done


def _score(db: Database, model: ModelPlan, wanted: Wanted, pool: Pool, run_id: str, report: Report) -> Progress:
    """One model. What came last is scored first: the newest texts are those that somebody waits for."""
    listed = list(pages(db, model, since=wanted.since, rescore=wanted.rescore, limit=wanted.limit))
    state = Progress(model.name, model.revision, total=sum(page.parts for page in listed))
    report(state)
    for outcome in pool(model, listed[::-1], run_id) if listed else ():
        state = state.after(outcome)
        report(state)
        if state.unavailable is not None:
            break
    return state


class InProcess:
    """A pool that does the pages here, one after the other."""

    def __init__(self, make: Callable[[ModelPlan, str], Callable[[Page], Outcome]]) -> None:
        self._make = make

    def __call__(self, model: ModelPlan, listed: Sequence[Page], run_id: str) -> Iterator[Outcome]:
        """What became of each page."""
        return map(self._make(model, run_id), listed)


@contextmanager
def _alone(db: Database, name: str, run_id: str) -> Iterator[None]:
    """Hold the lease ``name``, renewed by a thread: two runs would do the same work twice, though nothing worse."""
    keeper = LeaseKeeper(db)
    lease = keeper.acquire(name, f"{socket.gethostname()}-{run_id[:12]}", LEASE_TTL_S)
    if lease is None:
        raise LeaseTaken(f"{name}: another run is at it; it goes on by itself")
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(keeper, lease, over), name=f"lease {name}", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join()
        keeper.release(lease)


def _renew(keeper: LeaseKeeper, lease: Lease, over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        try:
            lease = keeper.renew(lease)
        except LeaseLost as error:
            log.warning("%s; scoring goes on: of a score that two have made the first stands", error)
            return
        except StorageError as error:
            log.warning("lease %s not renewed: %s", lease.name, error)


def _log(progress: Progress) -> None:
    log.info("%s", progress)
