"""Which history is a job's work, and that each piece of it becomes one job."""

from __future__ import annotations

import pytest

from ray_app.clock import iso
from ray_app.collection.history import HistoryKeeper
from ray_app.collection.jobs import JobInfo
from tests.collection.test_runner import runner_for
from tests.collection.world import DAY, HOUR, MINUTE, START, JumpingClock, world

pytestmark = pytest.mark.integration


class Cluster:
    """A job server that notes what it was given; jobs end when told to."""

    def __init__(self):
        self.jobs = {}
        self.ended = set()

    async def submit(self, entrypoint_args, submission_id):
        self.jobs.setdefault(submission_id, list(entrypoint_args))
        return submission_id

    async def info(self, job_id):
        if job_id not in self.jobs:
            return None
        return JobInfo(job_id, "SUCCEEDED" if job_id in self.ended else "RUNNING", "", "", None, None)


async def looked(used):
    """Look until nothing is left to start, each job ending at once; the jobs in order."""
    cluster, db = Cluster(), used.db()
    keeper = HistoryKeeper(used.settings, cluster)
    try:
        while await keeper.look(db, used.clock):
            cluster.ended = set(cluster.jobs)
    finally:
        db.dispose()
    return list(cluster.jobs.values())


async def test_before_any_schedule_there_is_nothing_to_say_yet(tmp_path, sqlite_url):
    with world(tmp_path, sqlite_url, clock=JumpingClock(START)) as used:
        cluster, db = Cluster(), used.db()
        assert await HistoryKeeper(used.settings, cluster).look(db, used.clock), "look again soon"
        assert cluster.jobs == {}
        db.dispose()


async def test_the_first_start_owes_the_whole_history_beyond_what_a_poll_reaches(tmp_path, sqlite_url):
    days = {"history_hourly_days": 20, "history_daily_days": 400}
    with world(tmp_path, sqlite_url, clock=JumpingClock(START + MINUTE), **days) as used:
        await runner_for(used, "unified-ohlc").once()
        daily, hourly = (iso((START - n * DAY) // unit * unit) for n, unit in ((400, DAY), (20, HOUR)))
        expected = [
            ["backfill", "--dataset", "candles-86400", "--from", daily],
            ["backfill", "--dataset", "candles-3600", "--from", hourly],
        ]
        assert await looked(used) == expected


async def test_a_downtime_longer_than_a_poll_reaches_is_a_job_also_for_five_minute_bars(tmp_path, sqlite_url):
    with world(tmp_path, sqlite_url, clock=JumpingClock(START + MINUTE)) as used:
        await runner_for(used, "unified-ohlc").once()
        assert await looked(used) == []
        used.clock.go_to(START + 4 * DAY + MINUTE)
        await runner_for(used, "unified-ohlc").once()
        assert await looked(used) == [["backfill", "--dataset", "candles-300", "--from", iso(START)]]
        async with await used.open("backfill") as runtime:
            from ray_app.collection.backfill import backfill

            await backfill(runtime, ("candles-300",), START)
        assert await looked(used) == []
