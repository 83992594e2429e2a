"""The job as it is run: a program of its own on a Ray cluster of its own, a worker of which is killed half way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_app.collection.jobs import JOBS_DIR
from ray_app.node.processes import descendants
from ray_app.scoring.pages import TRANSFORMER_PARTS
from ray_app.storage import sentiment_queries as queries
from ray_app.storage.engine import Database
from ray_app.storage.migrate import upgrade
from tests.nodes import clean_environment
from tests.scoring.world import put, scores
from tests.sentiment import tiny

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGES = 6
WORDS = " ".join(word for word in tiny.WORDS if word != "bitcoin")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    ray_dir = tempfile.mkdtemp(prefix="score-", dir="/tmp")  # a socket's path has 107 characters at most
    yield clean_environment(
        {
            "DATA_DIR": str(tmp_path),
            "DATABASE_URL": f"sqlite:///{tmp_path / 'node.db'}",
            "FINBERT_MODEL": str(tmp_path / "finbert"),
            "CRYPTOBERT_MODEL": str(tmp_path / "cryptobert"),
            "SENTIMENT_THREADS": "1",
            "RAY_TMPDIR": ray_dir,
            "RAY_AUTH_MODE": "disabled",
            "HOME": str(tmp_path),
        }
    )
    shutil.rmtree(ray_dir, ignore_errors=True)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    upgrade(database)
    yield database
    database.dispose()


def workers(of: int) -> list[int]:
    """Processes below ``of`` that hold a model."""
    return [pid for pid in descendants([of]) if b"_Actor" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_killing_the_worker_loses_and_repeats_nothing(
    db: Database, tmp_path: Path, environment: dict[str, str]
) -> None:
    tiny.bert(tmp_path / "finbert")
    texts = [f"{WORDS} {WORDS} number {n}" for n in range(PAGES * TRANSFORMER_PARTS)]
    put(db, *texts, stocks=True)
    command = [sys.executable, str(JOBS_DIR / "score_texts.py"), "--models", "finbert,cryptobert,lexicon"]
    told: list[str] = []
    killed = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        assert job.stdout is not None
        for line in job.stderr:
            told.append(line)
            if line.startswith("finbert: ") and not line.startswith("finbert: 0.0 %") and not killed:
                (killed,) = workers(job.pid)
                os.kill(killed, signal.SIGKILL)
        said = job.stdout.read()
    assert job.returncode == 1, told  # a model that was asked for is not there
    assert killed, told
    assert f"model unavailable: {tmp_path / 'cryptobert'}: there is no such folder" in said
    assert f"finbert: 100.0 % ({len(texts)} of {len(texts)} parts" in said
    found = scores(db)
    for model in ("finbert", "lexicon"):
        assert len({row["text_hash"] for row in found if row["model"] == model}) == len(texts)
    assert len(found) == 2 * len(texts)
    with db.read() as conn:
        assert queries.unscored(conn, "stock_news", "finbert", None) == []
