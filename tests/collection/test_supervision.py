"""When the supervisor starts a child again, and when it takes it for hung."""

from __future__ import annotations

from ray_app.collection.supervision import LONGEST_PAUSE_S, PATIENCE, PROVEN_S, Watch, pause_s


def test_pauses_grow_to_a_limit():
    assert [pause_s(starts) for starts in (1, 2, 3, 4)] == [0.0, 1.0, 2.0, 4.0]
    assert pause_s(10_000) == LONGEST_PAUSE_S


def test_a_child_that_keeps_dying_is_started_ever_more_slowly():
    watch, now, pauses = Watch(), 0.0, []
    for _ in range(4):
        assert watch.may_start(now)
        watch.started(now)
        watch.ended(now, "it died")
        pauses.append(watch.not_before - now)
        now = watch.not_before
    assert pauses == [0.0, 1.0, 2.0, 4.0]
    assert watch.last_problem == "it died"


def test_a_long_life_earns_a_clean_record():
    watch = Watch()
    for start in range(5):
        watch.started(start)
        watch.ended(start, "it died")
    watch.started(100.0)
    watch.answered(100.0 + PROVEN_S)
    watch.ended(100.0 + PROVEN_S, "it died")
    assert watch.may_start(100.0 + PROVEN_S)


def test_silence_counts_as_hung_only_when_it_lasts():
    watch = Watch()
    watch.started(0.0)
    assert [watch.silent() for _ in range(PATIENCE)] == [False] * (PATIENCE - 1) + [True]
    watch.answered(1.0)
    assert not watch.silent()
