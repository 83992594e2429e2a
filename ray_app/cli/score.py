"""``crypto-data score``: score the texts that have no score yet, and aggregate the hours that ended."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from ray_app.cli.times import MOMENT
from ray_app.errors import ConfigError
from ray_app.sentiment.vocabulary import LEXICONS

if TYPE_CHECKING:
    from ray_app.scoring.run import Progress, Wanted
    from ray_app.settings import Settings


@click.command("score")
@click.option("--models", help="Of cryptobert,finbert,vader,textblob,lexicon; default: the settings'.")
@click.option("--since", type=MOMENT, help="Only texts first seen from then on.")
@click.option("--rescore", is_flag=True, help="Also texts that another revision of a model has scored.")
@click.option("--revision", help="With --rescore and one model: this commit, branch or tag of its hub repository.")
@click.option("--limit", type=click.IntRange(1), help="About so many texts (or parts of texts) a model, then end.")
@click.option("--fetch", is_flag=True, help="Bring weights that are not here from where the settings say.")
@click.option("--aggregate/--no-aggregate", default=True, help="Afterwards aggregate the hours that ended.")
@click.option("--address", help="Of the Ray cluster that scores; default: RAY_ADDRESS, else one of its own.")
def command(
    models: str | None,
    since: int | None,
    *,
    rescore: bool,
    revision: str | None,
    limit: int | None,
    fetch: bool,
    aggregate: bool,
    address: str | None,
) -> None:
    """Score what no model of the same name has scored; end when nothing is left.

    Safe to run beside a node and to interrupt: what is stored is never scored again by the same revision, and no score
    is ever replaced. A model that cannot be had is named with the reason and its texts stay unscored; the status is 1
    if it was asked for by --models, or if no model could be had.
    """
    from ray_app.cli.here import node_settings
    from ray_app.scoring.run import Wanted

    if revision is not None and not (rescore and models and "," not in models):
        raise click.UsageError("--revision is of one model: --rescore --models NAME --revision REVISION")
    settings = node_settings()
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    wanted = Wanted(_names(settings, models), since or 0, rescore, revision, limit, fetch)
    done = _run(settings, wanted, address, aggregate=aggregate)
    for progress in done.values():
        click.echo(str(progress))
    missing = [progress for progress in done.values() if progress.unavailable is not None]
    if missing and (models is not None or len(missing) == len(done)):
        raise click.exceptions.Exit(1)


def _names(settings: Settings, models: str | None) -> tuple[str, ...]:
    """The models asked for; the settings know which there are."""
    from ray_app.settings import load_settings

    try:
        return settings.sentiment_models if models is None else load_settings(sentiment_models=models).sentiment_models
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _run(settings: Settings, wanted: Wanted, address: str | None, *, aggregate: bool) -> dict[str, Progress]:
    from ray_app.clock import open_clock
    from ray_app.scoring.hours import aggregate_hours
    from ray_app.scoring.pool import RayDataPool
    from ray_app.scoring.run import score_texts
    from ray_app.storage.engine import Database
    from ray_app.storage.migrate import require_current

    db = Database(settings.resolved_database_url)
    try:
        require_current(db)
        # a revision of one's own is not the application's
        deployed = settings.sentiment_scorer == "deployment" and wanted.revision is None
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        done: dict[str, Progress] = {}
        with RayDataPool(settings, address, deployed=deployed) as pool:
            for some in _quick_and_slow(wanted):
                done |= score_texts(settings, db, some, pool, _Printer().show)
                if aggregate:
                    hours = aggregate_hours(db, open_clock(settings.epoch_file).now_ms())
                    click.echo(f"{hours} hours aggregated", err=True)
        return done
    finally:
        db.dispose()


def _quick_and_slow(wanted: Wanted) -> list[Wanted]:
    """Lexicons, then weights: hours are not to wait for those."""
    parts = [[name for name in wanted.models if (name in LEXICONS) is quick] for quick in (True, False)]
    return [replace(wanted, models=names) for names in parts if names]


class _Printer:
    """A line per percent, not per page."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def show(self, progress: Progress) -> None:
        step = (progress.model, int(progress.percent))
        if step != self._last:
            self._last = step
            click.echo(str(progress), err=True)
