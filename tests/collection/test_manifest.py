"""A day's manifest: the same answers have the same roots however they are laid out, other answers have others."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.collection import manifest
from ray_app.collection.archive import Archive
from ray_app.collection.manifest import WHOLE_DAY, MerkleTree
from ray_app.sources.base import Exchange, Request
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade

DAY = 1_795_478_400_000  # 2026-11-24T00:00:00Z


def answers(count: int = 40) -> list[Exchange]:
    """Of two endpoints, over a day; some in the same millisecond."""
    rng = random.Random(4)
    sources = (("coingecko.markets", "/coins/markets"), ("coinbase.candles", "/products/BTC-USD/candles"))
    found = []
    for number in range(count):
        name, path = rng.choice(sources)
        request = Request(name, path, {"page": str(number)}, {"slot": str(DAY)})
        found.append(Exchange(request, 200, {"etag": str(number)}, b"[%d]" % number, DAY + number // 4 * HOUR_MS))
    return found


def archived(root: Path, exchanges: list[Exchange], writers: tuple[str, ...] = ("w1",)) -> Archive:
    for number, exchange in enumerate(exchanges):
        with Archive(root, writers[number % len(writers)]) as archive:
            archive.append(exchange, "prices")
    return Archive(root)


def roots(root: Path, exchanges: list[Exchange], **layout: tuple[str, ...]) -> dict[str, manifest.Root]:
    return manifest.manifest_of(archived(root, exchanges, **layout), DAY)


def test_the_roots_depend_on_the_answers_alone(tmp_path: Path) -> None:
    exchanges = answers()
    shuffled = random.Random(5).sample(exchanges, len(exchanges))
    one = roots(tmp_path / "one", exchanges)
    assert one == roots(tmp_path / "two", shuffled, writers=("a", "b", "c"))
    assert set(one) == {WHOLE_DAY, "coingecko.markets", "coinbase.candles"}
    assert one[WHOLE_DAY].answers == len(exchanges)
    assert one[WHOLE_DAY].payload_bytes == sum(len(exchange.body) for exchange in exchanges)


@pytest.mark.parametrize("change", ["body", "time", "status", "request", "missing", "twice"])
def test_any_change_of_one_answer_changes_its_endpoint_s_root_and_the_day_s(tmp_path: Path, change: str) -> None:
    exchanges = answers()
    victim = exchanges[7]
    request, status, headers, body, at = (
        victim.request,
        victim.status,
        victim.headers,
        victim.body,
        victim.fetched_at,
    )
    others = {
        "body": [Exchange(request, status, headers, body + b" ", at)],
        "time": [Exchange(request, status, headers, body, at + 1)],
        "status": [Exchange(request, 203, headers, body, at)],
        "request": [Exchange(Request(request.endpoint, request.path, {}), status, headers, body, at)],
        "missing": [],
        "twice": [victim, victim],
    }[change]
    before = roots(tmp_path / "before", exchanges)
    after = roots(tmp_path / "after", [*exchanges[:7], *others, *exchanges[8:]])
    differing = {name for name in before if before[name].root != after[name].root}
    assert differing == {WHOLE_DAY, request.endpoint}


def test_the_tree_is_that_of_rfc_6962() -> None:
    def reference(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\x00" + leaves[0]).digest()
        split = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + reference(leaves[:split]) + reference(leaves[split:])).digest()

    tree, leaves = MerkleTree(), []
    assert tree.root() == hashlib.sha256().hexdigest()
    for number in range(70):
        leaves.append(str(number).encode())
        tree.add(leaves[-1])
        assert tree.root() == reference(leaves).hex()


def test_a_day_is_recorded_once_when_it_is_settled_and_never_replaced(tmp_path: Path, database_url: str) -> None:
    db = Database(database_url)
    upgrade(db)
    archive = archived(
        tmp_path, [*answers(), Exchange(Request("coingecko.global", "/global"), 200, {}, b"{}", DAY + DAY_MS)]
    )
    assert manifest.record_settled(archive, db, DAY + DAY_MS + HOUR_MS - 1) == []
    assert manifest.record_settled(archive, db, DAY + DAY_MS + HOUR_MS) == [20261124], "the next day is not over"
    assert manifest.record_settled(archive, db, DAY + DAY_MS + HOUR_MS) == []
    with db.read() as conn:
        assert manifest.recorded(conn, 20261124) == manifest.manifest_of(archive, DAY)
        assert manifest.recorded(conn, 20261125) == {}
    with pytest.raises(IntegrityError):
        db.run(lambda conn: manifest.record(conn, 20261124, manifest.manifest_of(archive, DAY), DAY))
    db.dispose()
