from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.collection import archive as archive_module
from ray_app.collection import archive_record
from ray_app.collection.archive import Archive, Entry
from ray_app.errors import ArchiveError
from ray_app.sources.base import Exchange, Request
from tests.servers import wait_until

NOON = 1_795_521_600_000  # 2026-11-24T12:00:00Z
HOUR = 3_600_000
MARKETS = Request("coingecko.markets", "/coins/markets", {"ids": "bitcoin,ethereum"}, {"slot": str(NOON)})
processes = multiprocessing.get_context("spawn")


def exchange(
    at: int = NOON, body: bytes = b'[{"id": "bitcoin"}]', request: Request = MARKETS, status: int = 200
) -> Exchange:
    return Exchange(request, status, {"content-type": "application/json", "etag": '"x"'}, body, at)


def scan(archive: Archive, *args, **kwargs) -> tuple[list[Exchange], list[str]]:
    damages: list[str] = []
    found = [e for _, _, e in archive.scan(*args, on_damage=lambda d: damages.append(str(d)), **kwargs)]
    return found, damages


@pytest.fixture
def archive(tmp_path: Path):
    with Archive(tmp_path / "archive", "w1") as opened:
        yield opened


def test_a_record_comes_back_as_it_went_in(archive: Archive):
    sent = exchange(body="€ and \x00 and a newline\n".encode() + bytes(range(256)))
    place = archive.append(sent, "crypto-prices")
    assert archive.read(place.segment, place.position) == sent
    assert place.segment == "coingecko.markets/20261124T12.w1.zst"
    assert place.position == 0
    assert place.fetch_id >> 20 == NOON
    assert place.payload_hash == hashlib.sha256(sent.body).hexdigest()
    assert place.payload_bytes == len(sent.body)
    assert list(archive.scan()) == [(place, "crypto-prices", sent)]


bodies = st.one_of(st.binary(max_size=2_000), st.binary(min_size=1, max_size=20).map(lambda b: b * 5_000))


@settings(max_examples=40, deadline=None)
@given(
    records=st.lists(
        st.tuples(bodies, st.integers(-2 * HOUR, 2 * HOUR), st.sampled_from([200, 304, 429, 503])), max_size=12
    )
)
def test_any_sequence_of_records_is_scanned_back_by_rising_fetch_id(tmp_path_factory, records):
    sent = [exchange(NOON + at, body, status=status) for body, at, status in records]
    with Archive(tmp_path_factory.mktemp("archive"), "w1") as archive:
        places = [archive.append(e, "c") for e in sent]
        result = list(archive.scan())
        by_id = sorted(zip(places, sent, strict=True), key=lambda pair: pair[0].fetch_id)
        assert [(place, e) for place, _, e in result] == by_id
        for place, original in zip(places, sent, strict=True):
            assert archive.read(place.segment, place.position) == original


def test_a_segment_is_a_zstd_file_that_common_tools_read(archive: Archive):
    for n in range(3):
        archive.append(exchange(body=b"body %d" % n), "c")
    archive.close()
    raw = (archive.root / "coingecko.markets/20261124T12.w1.zst").read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
        lines = reader.read().split(b"\n")
    assert lines[1::2][:3] == [b"body 0", b"body 1", b"body 2"]
    assert orjson.loads(lines[0])["request"]["endpoint"] == "coingecko.markets"


def test_records_go_to_the_hour_they_were_fetched_in_even_when_they_arrive_late(archive: Archive):
    order = [NOON, NOON + HOUR, NOON + 10, NOON + 2 * HOUR, NOON + 20, NOON + HOUR + 1]
    for at in order:
        archive.append(exchange(at), "c")
    assert [e.fetched_at for e in scan(archive)[0]] == sorted(order)
    assert archive.segments() == [f"coingecko.markets/20261124T{hour}.w1.zst" for hour in (12, 13, 14)]


def test_scan_selects_by_endpoint_upstream_and_time(archive: Archive):
    candles = Request("coinbase.candles", "/products/BTC-USD/candles")
    for n in range(5):
        archive.append(exchange(NOON + n * HOUR // 2), "c")
        archive.append(exchange(NOON + n * HOUR // 2 + 1, request=candles), "c")
    assert len(scan(archive)[0]) == 10
    assert len(scan(archive, "coingecko")[0]) == len(scan(archive, "coingecko.markets")[0]) == 5
    assert len(scan(archive, "coin")[0]) == 0
    found, _ = scan(archive, "coinbase.candles", NOON + HOUR // 2, NOON + HOUR + 1)
    assert [e.fetched_at for e in found] == [NOON + HOUR // 2 + 1], "start counts, end does not"
    assert len(scan(archive, start=NOON + HOUR + 1)[0]) == 5


def test_several_writers_of_an_hour_are_merged_by_fetch_id(tmp_path: Path):
    writers = [Archive(tmp_path, f"w{n}") for n in range(3)]
    times = list(range(NOON, NOON + 60))
    random.Random(5).shuffle(times)
    for n, at in enumerate(times):
        writers[n % 3].append(exchange(at), "c")
    assert [e.fetched_at for e in scan(Archive(tmp_path))[0]] == sorted(times)
    for writer in writers:
        writer.close()


def test_threads_may_append_at_once(archive: Archive):
    def work(n: int) -> None:
        for i in range(50):
            archive.append(exchange(NOON + i, b"%d-%d " % (n, i) * 100), "c")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, damages = scan(archive)
    assert {e.body for e in found} == {b"%d-%d " % (n, i) * 100 for n in range(4) for i in range(50)}
    assert damages == []


def test_two_processes_cannot_write_under_one_name(archive: Archive):
    archive.append(exchange(), "c")
    with (
        Archive(archive.root, "w1") as twin,
        pytest.raises(ArchiveError, match="another process writes under the name 'w1'"),
    ):
        twin.append(exchange(), "c")


def test_a_closed_archive_goes_on_where_it_ended(archive: Archive):
    first = archive.append(exchange(), "c")
    archive.close()
    second = archive.append(exchange(), "c")
    assert second.position > first.position
    assert len(scan(archive)[0]) == 2


# --- damage -----------------------------------------------------------------------------------------------------


def three_records(archive: Archive) -> tuple[Path, list[Entry]]:
    for n in range(3):
        archive.append(exchange(NOON + n, random.Random(n).randbytes(500)), "c")
    archive.close()
    segment = archive.segments()[0]
    return archive.root / segment, archive.index(segment)


def test_every_flipped_bit_is_found_and_costs_one_record_only(archive: Archive):
    path, entries = three_records(archive)
    whole = path.read_bytes()
    originals = scan(archive)[0]
    middle = entries[1]
    for offset in [*range(middle.position, middle.position + 44), *range(middle.position + 44, middle.end, 7)]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << (offset % 8)
        path.write_bytes(damaged)
        for with_index in (True, False):
            if not with_index:
                path.with_suffix(".idx").rename(path.with_suffix(".kept"))
            found, damages = scan(archive)
            if not with_index:
                path.with_suffix(".kept").rename(path.with_suffix(".idx"))
            assert found == [originals[0], originals[2]], f"byte {offset}"
            assert len(damages) == 1
            assert f"20261124T12.w1.zst at offset {middle.position}" in damages[0]
    with pytest.raises(ArchiveError, match=f"at offset {middle.position}"):
        archive.read(archive.segments()[0], middle.position)


def test_a_torn_tail_is_reported_and_later_records_follow_it(archive: Archive):
    path, entries = three_records(archive)
    whole = path.read_bytes()
    last = entries[2]
    for length in (1, 20, 39, 40, 41, last.length - 1):
        path.write_bytes(whole[: last.position + length])
        found, damages = scan(archive)
        assert len(found) == 2
        assert len(damages) == 1
        assert f"offset {last.position}" in damages[0]
    with Archive(archive.root, "w1") as successor:
        place = successor.append(exchange(NOON + 9), "c")
        assert successor.read(place.segment, place.position).fetched_at == NOON + 9
    found, damages = scan(archive)
    assert [e.fetched_at for e in found] == [NOON, NOON + 1, NOON + 9]
    assert len(damages) == 1


def test_a_damaged_large_record_is_skipped_to_the_next_whole_one(archive: Archive):
    archive.append(exchange(NOON, random.Random(1).randbytes(3 << 20)), "c")
    archive.append(exchange(NOON + 1), "c")
    archive.close()
    path = archive.root / archive.segments()[0]
    damaged = bytearray(path.read_bytes())
    damaged[2 << 20] ^= 1
    path.write_bytes(damaged)
    path.with_suffix(".idx").unlink()
    found, damages = scan(archive)
    assert [e.fetched_at for e in found] == [NOON + 1]
    assert len(damages) == 1


@pytest.mark.parametrize("content", [b"no json\n", b"{}\n", b"[]\n", b'{"body_bytes": 1}\n'])
def test_a_whole_record_of_unknown_content_is_an_error_that_names_its_place(archive: Archive, content: bytes):
    path, entries = three_records(archive)
    frame = zstandard.ZstdCompressor().compress(content)
    head = list(archive_record.HEADER.unpack(path.read_bytes()[: entries[0].position + 40]))
    head[6:8] = [len(frame), zlib.crc32(frame)]
    head[9] = zlib.crc32(archive_record.HEADER.pack(*head[:9], 0)[:-4])
    path.write_bytes(path.read_bytes() + archive_record.HEADER.pack(*head) + frame)
    with pytest.raises(ArchiveError, match=f"at offset {entries[2].end}: the record is not what this version writes"):
        archive.read(archive.segments()[0], entries[2].end)
    found, damages = scan(archive)
    assert len(found) == 3
    assert len(damages) == 1


def test_an_index_that_cannot_be_opened_is_an_error_and_one_that_cannot_be_written_is_not(tmp_path: Path, caplog):
    segment = tmp_path / "coingecko.markets/20261124T12.w1.zst"
    segment.with_suffix(".idx").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="Is a directory"), Archive(tmp_path, "w1") as archive:
        archive.append(exchange(), "c")
    segment.with_suffix(".idx").rmdir()
    with Archive(tmp_path, "w1") as archive:
        archive.append(exchange(), "c")
        with Path("/dev/null").open("rb") as unwritable:
            os.dup2(unwritable.fileno(), archive._segments["coingecko.markets/20261124T12.w1.zst"].index_fd)
        place = archive.append(exchange(NOON + 1), "c")
        assert archive.read(place.segment, place.position) == exchange(NOON + 1)
        assert len(scan(archive)[0]) == 2
    assert "rebuilt when read" in caplog.text


def test_reading_where_no_record_begins_says_so(archive: Archive):
    path, _ = three_records(archive)
    segment = archive.segments()[0]
    with pytest.raises(ArchiveError, match="at offset 3: no record begins there"):
        archive.read(segment, 3)
    with pytest.raises(ArchiveError, match="no record begins"):
        archive.read(segment, path.stat().st_size)
    with pytest.raises(ArchiveError, match="No such file"):
        archive.read("coingecko.markets/20261124T11.w1.zst", 0)
    for outside in ("../../etc/passwd", "a/../../b", "/etc/passwd", "coingecko.markets/x.zst"):
        with pytest.raises(ArchiveError, match="is not the name of a segment"):
            archive.read(outside, 0)


def test_damage_nobody_listens_for_is_logged(archive: Archive, caplog):
    path, _ = three_records(archive)
    path.write_bytes(path.read_bytes()[:-3])
    assert len(list(archive.scan())) == 2
    assert "torn or damaged record" in caplog.text


@pytest.mark.parametrize("harm", ["absent", "empty", "torn", "short", "shifted"])
def test_a_missing_or_wrong_index_changes_nothing_and_can_be_rebuilt(archive: Archive, harm: str):
    path, entries = three_records(archive)
    index = path.with_suffix(".idx")
    raw = index.read_bytes()
    broken = {"empty": b"", "torn": raw[:-5], "short": raw[:20], "shifted": raw[7:] + raw[:7], "absent": None}[harm]
    index.unlink() if broken is None else index.write_bytes(broken)
    assert len(scan(archive)[0]) == 3
    assert archive.rebuild_index(archive.segments()[0]) == entries
    assert index.read_bytes() == raw


def test_the_index_of_a_segment_in_use_is_left_alone(archive: Archive):
    archive.append(exchange(), "c")
    with pytest.raises(ArchiveError, match="being written"):
        Archive(archive.root).rebuild_index(archive.segments()[0])


# --- a disk that does not cooperate -------------------------------------------------------------------------------


def test_an_archive_that_cannot_be_created_says_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchiveError, match=r"cannot write .*Not a directory.*free space or move DATA_DIR"):
        Archive(tmp_path / "file", "w1").append(exchange(), "c")


@pytest.mark.parametrize("writer", ["", "../x", "a/b", ".hidden", "with space"])
def test_writer_names_that_are_no_file_names_are_refused(tmp_path: Path, writer: str):
    with pytest.raises(ArchiveError, match="writer name"):
        Archive(tmp_path, writer)


def test_an_archive_opened_for_reading_does_not_write(tmp_path: Path):
    with pytest.raises(ArchiveError, match="opened for reading"):
        Archive(tmp_path).append(exchange(), "c")


def test_endpoints_that_are_no_directory_names_are_refused(archive: Archive):
    with pytest.raises(ArchiveError, match="cannot name a directory"):
        archive.append(exchange(request=Request("../escape", "/")), "c")


LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    from ray_app.collection.archive import Archive
    from ray_app.errors import ArchiveError
    from tests.collection.test_archive import exchange, NOON
    import random
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    archive = Archive(Path(sys.argv[1]), "w1")
    stored = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        while True:
            archive.append(exchange(NOON + stored, random.Random(stored).randbytes(3_000)), "c")
            stored += 1
    except ArchiveError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    archive.append(exchange(NOON + stored, b"room again"), "c")
    archive.close()
    print(stored)
"""


@pytest.mark.integration
def test_a_write_that_stops_half_way_leaves_nothing_and_the_archive_goes_on(tmp_path: Path):
    """A limit on the file's size makes a real short write, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    message, stored = done.stdout.splitlines()
    assert "File too large" in message
    assert int(stored) >= 5
    found, damages = scan(Archive(tmp_path))
    assert len(found) == int(stored) + 1
    assert found[-1].body == b"room again"
    assert damages == []


def test_half_a_record_that_cannot_be_cut_off_misplaces_none_of_the_later_ones(archive: Archive, monkeypatch):
    archive.append(exchange(NOON), "c")

    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(archive_module, "_write_all", half)
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(ArchiveError, match="Input/output error"):
            archive.append(exchange(NOON + 1), "c")
    place = archive.append(exchange(NOON + 2), "c")
    assert archive.read(place.segment, place.position) == exchange(NOON + 2)
    found, damages = scan(archive)
    assert [e.fetched_at for e in found] == [NOON, NOON + 2]
    assert len(damages) == 1


def test_syncing_reaches_segments_of_others_and_names_what_it_cannot(archive: Archive, tmp_path: Path):
    with Archive(archive.root, "w2") as other:
        place = other.append(exchange(), "c")
    archive.sync({place.segment})
    with pytest.raises(ArchiveError, match=r"20261124T11.w2.zst.*No such file"):
        archive.sync({"coingecko.markets/20261124T11.w2.zst"})


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 256 kB; needs the right to mount."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("may not mount a tmpfs here; the limited-file test covers short writes")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.integration
def test_a_full_disk_is_an_error_that_says_so_and_room_heals_it(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    stored = 0

    def fill(archive: Archive) -> None:
        nonlocal stored
        while True:
            archive.append(exchange(NOON + stored, random.Random(stored).randbytes(5_000)), "c")
            stored += 1

    with Archive(small_disk / "archive", "w1") as archive:
        with pytest.raises(ArchiveError, match=r"No space left on device.*free space"):
            fill(archive)
        assert stored > 5
        ballast.unlink()
        archive.append(exchange(NOON + stored), "c")
        found, damages = scan(archive)
    assert [e.fetched_at for e in found] == [NOON + n for n in range(stored + 1)]
    assert damages == []


@pytest.mark.integration
def test_a_read_only_disk_is_an_error_that_says_so(small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ArchiveError, match=r"Read-only file system.*not mounted read-only"):
        Archive(small_disk / "archive", "w1").append(exchange(), "c")


# --- real processes -------------------------------------------------------------------------------------------------


def append_for_ever(root: str, writer: str, acknowledged: str) -> None:
    """Append and note each record whose append() has returned."""
    with Archive(Path(root), writer) as archive, Path(acknowledged).open("ab", buffering=0) as notes:
        for n in range(1_000_000):
            place = archive.append(exchange(NOON + n // 10, random.Random(n).randbytes(200_000)), "c")
            notes.write(b"%d\n" % place.fetch_id)


@pytest.mark.integration
def test_a_writer_killed_mid_append_loses_at_most_the_record_in_its_hands(tmp_path: Path):
    for round_ in range(5):
        notes = tmp_path / f"notes{round_}"
        victim = processes.Process(target=append_for_ever, args=(str(tmp_path / "archive"), "w1", str(notes)))
        victim.start()
        wait_until(lambda: notes.exists() and notes.stat().st_size > 200, 60, "appends")  # noqa: B023
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(30)
    acknowledged = [int(line) for n in range(5) for line in (tmp_path / f"notes{n}").read_text().split()]
    damages: list[str] = []
    found = [
        place.fetch_id for place, _, _ in Archive(tmp_path / "archive").scan(on_damage=lambda d: damages.append(str(d)))
    ]
    assert found == sorted(found)
    assert set(acknowledged) <= set(found), "an acknowledged record is gone"
    assert len(set(found) - set(acknowledged)) <= 5, "written, killed before it could be noted"
    assert len(damages) <= 5


def append_some(root: str, writer: str, count: int) -> None:
    with Archive(Path(root), writer) as archive:
        for n in range(count):
            archive.append(exchange(NOON + n, f"{writer} {n}".encode() * 50), writer)


@pytest.mark.integration
def test_a_scan_beside_live_writers_sees_only_whole_records(tmp_path: Path):
    writers = [processes.Process(target=append_some, args=(str(tmp_path), f"w{n}", 400)) for n in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for _, collector, seen in Archive(tmp_path).scan(on_damage=lambda _: None):
            assert seen.body == f"{collector} {seen.fetched_at - NOON}".encode() * 50
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    found, damages = scan(Archive(tmp_path))
    assert len(found) == 1_200
    assert damages == []
