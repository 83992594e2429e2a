"""Fixtures every test may use. Lanes: unmarked tests are fast and never start Ray; see the markers in pyproject."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pymysql
import pytest
import ray

from tests.servers import mariadb_server, redis_server

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_numbers = itertools.count()

# A busy machine is slow, not wrong: no example fails for the time it took.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _no_ray_in_the_fast_lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pure logic is tested without Ray: starting it from an unmarked test is a mistake."""
    if request.node.get_closest_marker("integration") or request.node.get_closest_marker("node"):
        return

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("ray.init in the fast lane: mark the test integration, or test the logic without Ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def shared_data() -> Path:
    """The development data beside the checkout; skipped where it is absent (it is not ours to ship)."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not there (real recorded data; not ours to ship)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def mariadb_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One real MariaDB server for the whole run."""
    with mariadb_server(tmp_path_factory.mktemp("mariadb")) as port:
        yield port


@pytest.fixture
def mariadb_url(mariadb_port: int) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty MariaDB database."""
    name = f"t{next(_numbers)}"
    with (
        pymysql.connect(host="127.0.0.1", port=mariadb_port, user="node", password="node") as admin,
        admin.cursor() as cursor,
    ):
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield f"mysql+pymysql://node:node@127.0.0.1:{mariadb_port}/{name}?charset=utf8mb4"
        cursor.execute(f"DROP DATABASE {name}")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.integration)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, empty: a test that takes this runs on SQLite and on a real MariaDB."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One real Redis server for the whole run."""
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port
