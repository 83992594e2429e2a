"""The application as it is deployed: on a real Serve, with a real (tiny) model, asked through a gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ray_app.sentiment.scorer import Scorer, ScorerOptions
from tests.nodes import clean_environment
from tests.sentiment import tiny

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("online")


@pytest.fixture(scope="module")
def found(directory: Path) -> dict[str, Any]:
    """What the program saw."""
    tiny.bert(directory / "finbert")
    ray_dir = tempfile.mkdtemp(prefix="serve-", dir="/tmp")  # a socket's path has 107 characters at most
    environment = clean_environment(
        {
            "DATA_DIR": str(directory),
            "FINBERT_MODEL": str(directory / "finbert"),
            "CRYPTOBERT_MODEL": str(directory / "nowhere"),
            "SENTIMENT_PRECISION": "fp32",
            "SENTIMENT_THREADS": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # as on a node (node/head.py)
            "RAY_TMPDIR": ray_dir,
            "RAY_AUTH_MODE": "disabled",
            "HOME": str(directory),
        }
    )
    command = [sys.executable, "-m", "tests.scoring.serve_program", str(directory)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    finally:
        shutil.rmtree(ray_dir, ignore_errors=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert said, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(said[0].removeprefix("FOUND "))
    return result


def test_it_is_running_before_anybody_asks_without_a_replica(found):
    configured = found["as_configured"]
    assert (configured["status"], configured["replicas"]) == ("RUNNING", {})


def test_the_model_says_what_the_scorer_says(found, directory):
    body = found["as_configured"]["opened"]
    local = tiny.local(directory / "finbert", "finbert")
    (reading,) = Scorer.load(local, ScorerOptions(precision="fp32", threads=1)).score(["the market rose"])
    first, empty, _ = body["data"]
    assert body["revisions"]["finbert"] == local.revision
    assert list(first["models"]["finbert"]["probabilities"].values()) == pytest.approx(reading.probabilities, abs=1e-6)
    assert first["missing"] == {}
    assert (empty["score"], empty["reason"]) == (None, "empty")


def test_a_model_without_weights_is_null_and_says_why_while_the_lexicons_answer(found):
    (said,) = found["as_configured"]["crypto"]["data"]
    assert said["models"]["cryptobert"]["score"] is None
    assert said["models"]["cryptobert"]["reason"].startswith("model unavailable: ")
    assert "nowhere" not in json.dumps(said), "no body shows a path"
    assert set(said["members"]) == {"lexicon", "vader", "textblob"}


def test_many_at_once_are_all_answered(found):
    assert found["as_configured"]["singles"] == [200] * 16


def test_a_job_has_its_texts_scored_by_the_application_once_though_its_replica_is_killed(found, directory):
    job = found["job"]
    assert job["pages"] > 3, "else no pool is needed"
    assert job["failed"] == []
    assert (job["scored"], job["stored"]) == (job["texts"], job["texts"])
    assert job["revisions"] == [tiny.local(directory / "finbert", "finbert").revision]
    assert job["shares"] == pytest.approx([1.0] * 5)


def test_a_full_queue_is_503_with_retry_after_and_passes(found):
    full = found["full_queue"]
    assert set(full["statuses"]) == {200, 503}
    assert full["statuses"].count(503) >= 3
    assert all(int(seconds) >= 1 for seconds in full["retry_after"])
    assert {problem["code"] for problem in full["problems"]} == {"SERVICE_UNAVAILABLE"}
    assert full["after"] == 200
