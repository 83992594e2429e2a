"""Pages on Ray Data: a pool of actors, each with the model loaded once, fed as they become free."""

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
from ray_app.scoring.plans import ModelPlan
from ray_app.settings import Settings
from ray_app.storage.engine import Database

#: of a cluster of our own: texts are read where they are scored, so objects are few and small
_OWN: Final[dict[str, Any]] = {"include_dashboard": False, "object_store_memory": 100_000_000}


class RayDataPool:
    """A pool (``run.Pool``) on a Ray cluster, which it connects to when there is something to do.

    ``address``: of the cluster; ``local``: one of its own that ends with it. A page is a task: an actor that dies has
    its page done by another, and one that was done already is found empty.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    def __call__(self, model: ModelPlan, pages: Sequence[Page], run_id: str) -> Iterator[Outcome]:
        """What became of each page, as they are done."""
        self._connect()
        settings = self._settings
        rows = ray.data.from_items([{"page": pickle.dumps(page)} for page in pages], override_num_blocks=len(pages))
        done = rows.map(
            _Actor,
            fn_constructor_args=(settings, model, run_id),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(settings.sentiment_actors, len(pages))),
            num_cpus=settings.sentiment_actor_cpus,
            num_gpus=settings.sentiment_actor_gpus if model.local is not None else None,
        )
        for row in done.iter_rows():
            yield Outcome(**row)

    def _connect(self) -> None:
        import ray.data  # seconds

        if not ray.is_initialized():
            own = _OWN if self._address == "local" else {}
            ray.init(address=self._address, namespace=self._settings.ray_namespace, log_to_driver=False, **own)
        context = (
            ray.data.DataContext.get_current()
        )  # it tells of each execution at length; the run tells how far it is
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)


class _Actor:
    """One member of the pool."""

    def __init__(self, settings: Settings, model: ModelPlan, run_id: str) -> None:
        db = Database(settings.resolved_database_url, pool_size=1)
        self._scorer = PageScorer(model, db, open_clock(settings.epoch_file), run_id)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        page: Page = pickle.loads(row["page"])  # noqa: S301 - ours, of the driver of this very job
        return asdict(self._scorer(page))
