"""A database with texts and their parts, as answers leave them, and models small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from ray_app.clock import ManualClock
from ray_app.collection.digest import of_texts
from ray_app.scoring.pages import PageScorer
from ray_app.scoring.plans import open_model
from ray_app.scoring.run import InProcess
from ray_app.settings import Settings, load_settings
from ray_app.storage.engine import Database
from ray_app.storage.tables import crypto_news, stock_news, text_parts, text_scores
from ray_app.storage.upsert import guarded_upsert
from tests.collection.world import small_registry
from tests.storage.samples import T0
from tests.storage.source_samples import HOUR, article

REGISTRY = small_registry()
NOW = T0 - T0 % HOUR + 10 * HOUR


def settings_of(tmp_path: Path, **more: Any) -> Settings:
    return load_settings(
        data_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path / 'node.db'}",
        finbert_model=str(tmp_path / "finbert"),
        cryptobert_model=str(tmp_path / "cryptobert"),
        **more,
    )


def put(db: Database, *titles: str, stocks: bool = False, known_at: int = NOW - HOUR // 2) -> None:
    """Articles of these titles, and the parts they are cut into, as an answer at that moment leaves them."""
    table = stock_news if stocks else crypto_news
    rows = [article(title, known_at, f"f{n}") for n, title in enumerate(titles)]
    order = {name: rows[0][name] for name in ("fetched_at", "parser_version", "payload_hash")} if rows else {}
    parts = [row | order for name, row in of_texts({table.name: rows}, REGISTRY) if name == text_parts.name]

    def work(conn: Any) -> None:
        guarded_upsert(conn, table, rows)
        guarded_upsert(conn, text_parts, parts)

    db.run(work)


def in_process(db: Database, clock: ManualClock | None = None, opened: Any = open_model) -> InProcess:
    return InProcess(lambda model, run_id: PageScorer(model, db, clock or ManualClock(NOW), run_id, opened))


def scores(db: Database) -> list[dict[str, Any]]:
    with db.read() as conn:
        return [dict(row) for row in conn.execute(select(text_scores).order_by(*text_scores.primary_key)).mappings()]
