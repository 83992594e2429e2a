"""Texts are scored by a job now and then: one at a time, whatever became of the last one."""

from __future__ import annotations

import pytest

from ray_app.clock import ManualClock
from ray_app.collection.jobs import JobInfo
from ray_app.collection.scoring import ScoringKeeper
from ray_app.settings import Settings
from tests.collection.world import START


class Cluster:
    """A job server that notes what it was given; ``status``: of the last job."""

    def __init__(self):
        self.jobs = {}
        self.forgotten = []
        self.status = "RUNNING"

    async def submit(self, entrypoint_args, submission_id):
        assert submission_id not in self.jobs
        self.jobs[submission_id] = list(entrypoint_args)
        return submission_id

    async def info(self, job_id):
        return JobInfo(job_id, self.status, "", "", None, None) if job_id in self.jobs else None

    async def forget(self, job_id):
        self.forgotten.append(job_id)


async def looked(cluster, *statuses, origin="sandbox"):
    keeper, clock = ScoringKeeper(Settings(_env_file=None, origin=origin), cluster), ManualClock(START)
    for status in statuses:
        cluster.status = status
        await keeper.look(clock)
        clock.advance(600)


@pytest.mark.parametrize(("origin", "arguments"), [("sandbox", ["score_texts"]), ("live", ["score_texts", "--fetch"])])
async def test_weights_are_fetched_but_on_a_sandbox_node(origin, arguments):
    cluster = Cluster()
    await looked(cluster, "RUNNING", origin=origin)
    assert list(cluster.jobs.values()) == [arguments]


async def test_there_is_never_a_second_job_beside_the_first():
    cluster = Cluster()
    await looked(cluster, "RUNNING", "RUNNING", "PENDING")
    assert len(cluster.jobs) == 1
    assert cluster.forgotten == []


async def test_after_the_end_of_one_comes_the_next_and_the_list_does_not_grow():
    cluster = Cluster()
    await looked(cluster, "RUNNING", "SUCCEEDED", "SUCCEEDED")
    assert len(cluster.jobs) == 3
    assert cluster.forgotten == list(cluster.jobs)[:2]


async def test_of_a_job_that_failed_the_log_is_kept_and_the_next_one_starts():
    cluster = Cluster()
    await looked(cluster, "RUNNING", "FAILED")
    assert len(cluster.jobs) == 2
    assert cluster.forgotten == []


async def test_a_job_that_the_cluster_lost_is_followed_by_the_next():
    cluster = Cluster()
    await looked(cluster, "RUNNING")
    keeper = ScoringKeeper(Settings(_env_file=None, origin="sandbox"), cluster)
    keeper._last = "score-unknown"
    await keeper.look(ManualClock(START + 60_000))
    assert len(cluster.jobs) == 2
