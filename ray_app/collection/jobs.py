"""Ray jobs over the dashboard's REST API: submit once, look, read the log, stop.

Jobs are programs of the ``jobs/`` directory; they inherit the environment of the cluster they run on. A submission id
names the work, not the attempt: submitting it twice runs it once. No Ray import: the API is enough.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx

from ray_app.errors import NodeError
from ray_app.settings import Settings

#: where the entry points are; beside the package, in a checkout and in the image alike
JOBS_DIR = Path(__file__).resolve().parents[2] / "jobs"

JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})


class JobError(NodeError):
    """The cluster did not take, know or run a job; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as Ray reports it. Times are wall ms; ``ended_ms`` is None while it runs; ``message`` says how it went."""

    job_id: str
    status: JobStatus
    message: str
    entrypoint: str
    started_ms: int | None
    ended_ms: int | None

    @property
    def ended(self) -> bool:
        """Whether it is over, one way or another."""
        return self.status in ENDED


def ray_token() -> str | None:
    """The cluster's token, from RAY_AUTH_TOKEN or the file of RAY_AUTH_TOKEN_PATH; None where there is neither."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return Path(path).read_text().strip() if path else None
    except OSError:
        return None


class JobsClient:
    """Jobs of one cluster. Every method raises JobError where the cluster refuses or cannot be reached."""

    def __init__(self, dashboard_url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(base_url=dashboard_url, headers=headers, timeout=30, trust_env=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> JobsClient:
        """The client of the cluster this process belongs to."""
        return cls(settings.ray_dashboard_url, ray_token())

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def submit(self, entrypoint_args: Sequence[str], submission_id: str) -> str:
        """Run ``jobs/<first argument>.py`` with the other arguments; returns the id. A known id is not run again."""
        program, *arguments = entrypoint_args
        path = JOBS_DIR / f"{program}.py"
        if not path.is_file():
            raise JobError(f"there is no job program {path}")
        if await self.info(submission_id) is not None:
            return submission_id
        body = {
            "entrypoint": shlex.join([sys.executable, str(path), *arguments]),
            "submission_id": submission_id,
            "metadata": {"job_name": f"{program} {' '.join(arguments)}".strip()},
        }
        answer = await self._ask("POST", "/api/jobs/", json=body)
        # Ray answers an id it knows with 500 and a traceback; somebody may have been faster than our look above.
        if answer.status_code != 200 and await self.info(submission_id) is None:
            raise JobError(f"job {submission_id!r} was not taken ({answer.status_code}): {_last_line(answer.text)}")
        return submission_id

    async def info(self, job_id: str) -> JobInfo | None:
        """What became of a job; None if the cluster knows none of that id."""
        answer = await self._ask("GET", f"/api/jobs/{quote(job_id, safe='')}")
        if answer.status_code == 404:
            return None
        return _info(job_id, self._checked(job_id, answer))

    async def list(self) -> list[JobInfo]:
        """Every submitted job the cluster remembers, newest first."""
        answer = self._checked("list", await self._ask("GET", "/api/jobs/"))
        found = [_info(row["submission_id"], row) for row in answer if row.get("submission_id")]
        return sorted(found, key=lambda job: job.started_ms or 0, reverse=True)

    async def logs(self, job_id: str) -> str:
        """What the job has written so far."""
        answer = await self._ask("GET", f"/api/jobs/{quote(job_id, safe='')}/logs")
        return str(self._checked(job_id, answer)["logs"])

    async def stop(self, job_id: str) -> bool:
        """Ask a job to end (SIGTERM, after three seconds SIGKILL); False if it had ended already."""
        answer = await self._ask("POST", f"/api/jobs/{quote(job_id, safe='')}/stop")
        return bool(self._checked(job_id, answer)["stopped"])

    async def forget(self, job_id: str) -> None:
        """Take an ended job, and what is known of it, off the cluster's list; one that is unknown or runs is left."""
        await self._ask("DELETE", f"/api/jobs/{quote(job_id, safe='')}")

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise JobError(f"the Ray dashboard at {self._http.base_url} does not answer ({error!r})") from error

    @staticmethod
    def _checked(job_id: str, answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise JobError(f"job {job_id!r}: {answer.status_code} {_last_line(answer.text)}")
        return answer.json()


def _info(job_id: str, row: dict[str, Any]) -> JobInfo:
    return JobInfo(
        job_id, row["status"], row.get("message") or "", row["entrypoint"], row.get("start_time"), row.get("end_time")
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else ""
