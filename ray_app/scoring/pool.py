"""Pages on Ray Data: a pool of actors that score them, or that have them scored by the application ``sentiment``."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

import ray

from ray_app.clock import open_clock
from ray_app.scoring.pages import Outcome, Page, PageScorer
from ray_app.scoring.plans import ModelPlan, open_model
from ray_app.settings import Settings
from ray_app.storage.engine import Database

#: of a cluster of our own: texts are read where they are scored, so objects are few and small
_OWN: Final[dict[str, Any]] = {"include_dashboard": False, "object_store_memory": 100_000_000}
#: pages that are done here, one after the other, where no weights have to be loaded: a pool takes seconds to start
_FEW: Final = 3
#: seconds in which the first actor has to start
_PATIENCE_S: Final = 600
#: while the pages of one are scored by the application, another reads and stores
_ASKING: Final = 2


class RayDataPool:
    """A pool (``run.Pool``) on a Ray cluster, which it connects to when there is something for it to do.

    ``address``: of the cluster; ``local``: one of its own that ends with it. ``deployed``: weights are asked for scores
    through the application ``sentiment`` where the cluster runs it, else each actor loads its own. A page is a task: an
    actor that dies has its page done by another, and one that was done already is found empty.
    """

    def __init__(self, settings: Settings, address: str, *, deployed: bool = False) -> None:
        self._settings = settings
        self._address = address
        self._deployed = deployed and address != "local"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    def __call__(self, model: ModelPlan, pages: Sequence[Page], run_id: str) -> Iterator[Outcome]:
        """What became of each page, as they are done."""
        deployed = model.local is not None and self._deployed and self._asks_the_application()
        if len(pages) <= _FEW and (deployed or model.local is None):
            yield from self._here(model, pages, run_id, deployed=deployed)
        else:
            yield from self._on_ray_data(model, pages, run_id, deployed=deployed)

    def _here(self, model: ModelPlan, pages: Sequence[Page], run_id: str, *, deployed: bool) -> Iterator[Outcome]:
        worker = _Actor(self._settings, model, run_id, deployed=deployed)
        try:
            yield from map(worker.outcome, pages)
        finally:
            worker.close()

    def _on_ray_data(
        self, model: ModelPlan, pages: Sequence[Page], run_id: str, *, deployed: bool
    ) -> Iterator[Outcome]:
        import ray.data  # seconds

        self._connect()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the run tells how far it is
        context.print_on_execution_start = False
        context.wait_for_min_actors_s = _PATIENCE_S  # else a GPU that the cluster has not is waited for for ever
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        settings = self._settings
        most = _ASKING if deployed else settings.sentiment_actors
        gpus = settings.sentiment_actor_gpus if model.local is not None and not deployed else 0.0
        rows = ray.data.from_items([{"page": pickle.dumps(page)} for page in pages], override_num_blocks=len(pages))
        done = rows.map(
            _Actor,
            fn_constructor_args=(settings, model, run_id),
            fn_constructor_kwargs={"deployed": deployed},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(pages))),
            num_cpus=settings.sentiment_actor_cpus,
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            yield Outcome(**row)

    def _asks_the_application(self) -> bool:
        from ray_app.scoring.deployed import is_deployed

        self._connect()
        return is_deployed()

    def _connect(self) -> None:
        if not ray.is_initialized():
            own = _OWN if self._address == "local" else {}
            ray.init(address=self._address, namespace=self._settings.ray_namespace, log_to_driver=False, **own)


class _Actor:
    """One member of the pool."""

    def __init__(self, settings: Settings, model: ModelPlan, run_id: str, *, deployed: bool) -> None:
        opened = open_model
        if deployed:
            from ray_app.scoring.deployed import open_deployed as opened
        self._db = Database(settings.resolved_database_url, pool_size=1)
        self._scorer = PageScorer(model, self._db, open_clock(settings.epoch_file), run_id, opened)

    def outcome(self, page: Page) -> Outcome:
        """Score a page."""
        return self._scorer(page)

    def close(self) -> None:
        """Let go of the database."""
        self._db.dispose()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        page: Page = pickle.loads(row["page"])  # noqa: S301 - ours, of the driver of this very job
        return asdict(self.outcome(page))
