"""A job's way to the application ``sentiment``: weights are loaded there once, for requests and jobs alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException

from ray_app.errors import ModelUnavailable
from ray_app.scoring.plans import ModelPlan, Score
from ray_app.sentiment.analysis import LOADING, Busy, Scores
from ray_app.sentiment.vocabulary import TextScore

APPLICATION: Final = "sentiment"
#: texts of a request: what somebody who waits for an answer waits longer because of a job
PIECE: Final = 64
#: wall seconds a replica may take to start and to open its models, or to let a full queue run empty
PATIENCE_S: Final = 300.0
_AGAIN_S: Final = 1.0

#: asks the application: model and texts in, blocking
Ask = Callable[[str, Sequence[str]], Scores | Busy]


def is_deployed() -> bool:
    """Whether the cluster that this process is connected to runs the application."""
    found = serve.status().applications.get(APPLICATION)
    return found is not None and found.status == "RUNNING"


def handle_ask() -> Ask:
    """Asks by the application's handle. Raises what Ray raises; TimeoutError after PATIENCE_S."""
    handle = serve.get_deployment_handle("Sentiment", app_name=APPLICATION)
    if not handle.is_initialized:  # Serve gives a process the same one again
        # a node's Serve routes in the caller's event loop (RAY_SERVE_THROUGHPUT_OPTIMIZED); a job has none
        handle._init(_run_router_in_separate_loop=True)  # noqa: SLF001 - the one way there is

    def ask(model: str, texts: Sequence[str]) -> Scores | Busy:
        found: Scores | Busy = handle.score.remote(model, list(texts)).result(timeout_s=PATIENCE_S)
        return found

    return ask


def open_deployed(
    plan: ModelPlan,
    ask: Ask | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Score:
    """The model, as the application has it. What it gives is of ``plan.revision``, or ModelUnavailable says why not."""
    asked = ask or handle_ask()

    def score(texts: Sequence[str]) -> list[TextScore]:
        found: list[TextScore] = []
        for first in range(0, len(texts), PIECE):
            found += _patiently(asked, plan, texts[first : first + PIECE], sleep, now)
        return found

    return score


def _patiently(
    ask: Ask, plan: ModelPlan, texts: Sequence[str], sleep: Callable[[float], None], now: Callable[[], float]
) -> list[TextScore]:
    """Ask until there is an answer: a queue runs empty, a replica starts, a model is loaded."""
    until = now() + PATIENCE_S
    while True:
        wait_s, why = _AGAIN_S, "the application that scores texts does not answer"
        try:
            found = ask(plan.name, texts)
        except BackPressureError:
            why = "too many wait for the application that scores texts"
        except (RayServeException, RayActorError, TimeoutError):
            pass
        else:
            if isinstance(found, Busy):
                wait_s, why = float(found.retry_after_s), "too many texts wait to be scored"
            elif found.unavailable is None and found.revision is not None:
                return _of(plan, found)
            elif found.unavailable not in {None, LOADING}:
                raise ModelUnavailable(plan.name, str(found.unavailable))
            else:
                why = LOADING
        if now() + wait_s > until:
            raise ModelUnavailable(plan.name, f"{why}; given up after {PATIENCE_S:.0f} s, the next run tries again")
        sleep(wait_s)


def _of(plan: ModelPlan, found: Scores) -> list[TextScore]:
    if found.revision != plan.revision:
        why = f"the application has revision {found.revision}, the files here are {plan.revision}"
        raise ModelUnavailable(plan.name, f"{why}; it takes up new files when its replica starts anew")
    return found.scores
