from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from ray_app.assets import INACTIVE, Asset, AssetRegistry
from ray_app.storage import registry
from ray_app.storage.engine import Database
from ray_app.storage.tables import crypto_assets

NOW = 1_779_105_600_000


def load(db: Database) -> AssetRegistry:
    with db.read() as conn:
        return registry.load(conn)


def test_empty_database_has_an_empty_registry(db):
    assert len(load(db)) == 0


def test_what_is_saved_is_loaded(db):
    assert db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), NOW)) == len(AssetRegistry.seed())
    assert load(db) == AssetRegistry.seed()


def test_only_what_differs_is_written(db):
    db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), NOW))
    assert db.run(lambda conn: registry.save(conn, AssetRegistry.seed(), NOW + 1)) == 0
    seed = AssetRegistry.seed()
    gone = replace(seed.by_coin_id("bitcoin"), status=INACTIVE, valid_to=NOW, coinbase_product=None)
    new = Asset(9_999, "NÄU", "neu", "Neu ✓ 新", market_cap_rank=7, successor_ratio=0.1 + 0.2)
    changed = seed.replaced([gone, new])
    assert db.run(lambda conn: registry.save(conn, changed, NOW + 2)) == 2
    assert load(db) == changed
    with db.read() as conn:
        touched = (
            conn.execute(select(crypto_assets.c.coin_id).where(crypto_assets.c.updated_at == NOW + 2)).scalars().all()
        )
    assert sorted(touched) == ["bitcoin", "neu"]


def test_coins_that_differ_only_in_case_or_accents_are_different(db):
    twins = AssetRegistry([Asset(1, "A", "coin-a", "A"), Asset(2, "A", "coin-A", "A"), Asset(3, "A", "coin-á", "A")])
    db.run(lambda conn: registry.save(conn, twins, NOW))
    assert load(db).assets == twins.assets
