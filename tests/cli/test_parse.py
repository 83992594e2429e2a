"""``crypto-data parse``, ``sources`` and ``assets`` as a user runs them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys

import pytest

from ray_app.cli import main
from ray_app.sources import ENDPOINTS
from tests.sources.samples import BODIES, NOON, REQUESTS, coin, raw

FETCHED_AT = "2026-05-18T12:00:07.300Z"
PARAMS = {
    "coingecko.markets": ["vs_currency=usd", "ids=bitcoin,ethereum"],
    "coingecko.simple_price": ["vs_currencies=usd", "ids=bitcoin"],
    "coingecko.market_chart": ["id=bitcoin", "vs_currency=usd", "days=2"],
    "coingecko.ohlc": ["id=bitcoin", "vs_currency=usd", "days=1"],
    "coinbase.candles": ["product_id=BTC-USD", "granularity=3600"],
    "coinbase.price_candles": ["id=BTC-USD", "granularity=300"],
    "coinbase.exchange_rates": ["currency=USD"],
    "blockchain_com.chart": ["name=hash-rate"],
    "blockchair.stats": ["chain=bitcoin"],
    "defillama.chain_tvl": ["chain=OP Mainnet"],
    "mempool.hashrate": ["span=1m"],
    "rss.feed": ["feed=coindesk"],
    "guardian.item": ["id=technology/2026/may/18/bitcoin-slips"],
    "yahoo.chart": ["symbol=^GSPC", "interval=1d"],
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run ``crypto-data`` in an empty directory; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        with io.TextIOWrapper(io.BytesIO(stdin)) as text, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", text)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_installed_command_reads_a_pipe():
    """The others run in this process; this one proves the process: status, streams, no warning, no traceback."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from ray_app.cli import main; main()",
        "parse",
        "coingecko.markets",
        "-",
    ]
    good = subprocess.run(command, input=json.dumps([coin()]).encode(), capture_output=True, timeout=60)
    assert (good.returncode, good.stderr) == (0, b"")
    assert json.loads(good.stdout)["key"]["coin_id"] == "bitcoin"
    bad = subprocess.run(command, input=b"<html>", capture_output=True, timeout=60)
    assert (bad.returncode, bad.stdout) == (1, b"")
    assert len(bad.stderr.splitlines()) == 1


def parse(run, name, body, *more):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = PARAMS.get(name) or [f"{key}={value}" for key, value in REQUESTS[name]().params.items()]
    params = [argument for param in asked for argument in ("--param", param)]
    return run("parse", name, "-", "--fetched-at", FETCHED_AT, *params, *more, stdin=sent)


def test_sources_are_named_one_per_line_and_nothing_else(run):
    status, out, err = run("sources")
    assert (status, err) == (0, "")
    assert out.splitlines() == list(ENDPOINTS)


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_rows_are_json_lines_of_table_key_and_values(run, name):
    status, out, err = parse(run, name, BODIES[name])
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows
    assert all(list(row) == ["table", "key", "values", "source", "payload_hash"] for row in rows)
    sha256 = hashlib.sha256(raw(name)).hexdigest()
    assert {(row["source"], row["payload_hash"]) for row in rows} == {(name, sha256)}


def test_file_gives_the_same_as_standard_input_on_every_run(run, tmp_path):
    (tmp_path / "answer.json").write_text(json.dumps([coin()]))
    from_file = run("parse", "coingecko.markets", "answer.json", "--fetched-at", FETCHED_AT)
    assert from_file == run("parse", "coingecko.markets", "answer.json", "--fetched-at", FETCHED_AT)
    row = json.loads(from_file[1])
    assert row["key"] == {"coin_id": "bitcoin", "slot": NOON, "source": "coingecko.markets"}
    assert row["values"]["known_at"] == NOON + 7_300
    assert row["values"]["current_price"] == 77_671


def test_times_are_milliseconds_and_text_with_iso(run):
    for moment in (FETCHED_AT, str(NOON + 7_300), "2026-05-18T14:00:07.300+02:00", "2026-05-18 12:00:07.300"):
        _, out, _ = run("parse", "coingecko.markets", "-", "--fetched-at", moment, stdin=json.dumps([coin()]).encode())
        assert json.loads(out)["values"]["known_at"] == NOON + 7_300
    _, out, _ = run(
        "parse", "coingecko.markets", "-", "--fetched-at", FETCHED_AT, "--iso", stdin=json.dumps([coin()]).encode()
    )
    row = json.loads(out)
    assert row["key"]["slot"] == "2026-05-18T12:00:00Z"
    assert row["values"]["known_at"] == "2026-05-18T12:00:07.300Z"
    assert row["values"]["ath_date"] == "2025-10-06T18:57:42.558Z"
    assert row["values"]["interval_s"] == 300
    assert row["values"]["market_cap_rank"] == 1


def test_context_says_the_slot(run):
    status, out, _ = parse(
        run, "coingecko.markets", [coin()], "--context", f"slot={NOON - 3_600_000}", "--context", "interval_s=3600"
    )
    assert status == 0
    assert json.loads(out)["key"]["slot"] == NOON - 3_600_000


def test_issues_and_missing_ids_are_lines_on_stderr_and_no_failure(run):
    status, out, err = parse(run, "coingecko.markets", [coin(market_cap="?")])
    assert status == 0
    assert json.loads(out)["values"]["market_cap"] is None
    assert [line.split(":")[0] for line in err.splitlines()] == ["wrong_type", "missing"]
    assert "bitcoin.market_cap" in err
    assert "ethereum" in err


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize(
    ("body", "more"),
    [
        (b"", ()),
        (b"<html>\n<title>Just a\nmoment</title>\n</html>", ()),
        (b'[{"id": "bitcoin"', ()),
        (b'{"error": "coin not found"}', ()),
        (b'{"status": {"error_code": 429, "error_message": "slow\\ndown"}}', ()),
        (b'{"message": "NotFound"}', ("--status", "404")),
        (b"upstream\nfell over", ("--status", "503")),
    ],
    ids=["empty", "html", "truncated", "error", "envelope", "404", "503"],
)
def test_malformed_or_error_body_is_one_line_and_no_rows(run, name, body, more):
    status, out, err = parse(run, name, body, *more)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert name in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("coingecko.market", "-"), "did you mean coingecko.markets"),
        (("coingecko.markets", "-", "--param", "vs_curency=usd"), "it knows vs_currency"),
        (("coingecko.markets", "-", "--param", "vs_currency"), "NAME=VALUE"),
        (("coingecko.markets", "-", "--param", "page=1", "--param", "page=2"), "twice"),
        (("coingecko.ohlc", "-", "--param", "days=1"), "--param id="),
        (("coingecko.markets", "-", "--context", "slto=1"), "slot, interval_s, products"),
    ],
)
def test_wrong_question_is_one_line_that_says_how_to_ask(run, arguments, says):
    status, out, err = run("parse", *arguments, stdin=b"[]")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert says in err


@pytest.mark.parametrize(
    "arguments",
    [(), ("coingecko.markets",), ("coingecko.markets", "nonesuch.json"), ("coingecko.markets", "-", "--status", "9"), ("coingecko.markets", "-", "--fetched-at", "noon")],
)  # fmt: skip
def test_wrong_usage_exits_with_2(run, arguments):
    status, out, err = run("parse", *arguments)
    assert (status, out) == (2, "")
    assert "Error" in err


# --- manifests ---


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest of entries; each body is written beside it."""

    def write(*entries):
        folder = tmp_path / "recorded"
        folder.mkdir()
        lines = []
        for number, (url, status, headers, body) in enumerate(entries):
            (folder / f"{number}.json").write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
            lines.append(json.dumps({"file": f"{number}.json", "url": url, "status": status, "headers": headers}))
        (folder / "MANIFEST.jsonl").write_text("\n".join([*lines, ""]))
        return "recorded/MANIFEST.jsonl"

    return write


DATE = {"Date": "Mon, 18 May 2026 12:00:07 GMT"}
MARKETS = "https://api.coingecko.com/api/v3/coins/markets?vs_currency=usd&ids=bitcoin&x_cg_demo_api_key=CG-secret"


def test_manifest_names_endpoint_status_and_time(run, manifest):
    candles = "https://api.exchange.coinbase.com/products/BTC-USD/candles?granularity=3600"
    status, out, err = run(
        "parse",
        "--manifest",
        manifest((MARKETS, 200, DATE, [coin()]), (candles, 200, DATE, BODIES["coinbase.candles"])),
    )
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["table"] for row in rows] == ["price_data_real", "ohlc_data", "ohlc_data"]
    assert rows[0]["values"]["known_at"] == NOON + 7_000
    assert rows[1]["key"]["coinbase_product"] == "BTC-USD"


def test_manifest_skips_other_sources_with_a_note_and_prints_no_query(run, manifest):
    other = "https://api.etherscan.io/v2/api?module=stats&apikey=SECRET"
    placeholder = "https://api.coingecko.com/api/v3/coins/{id}/market_chart"
    status, out, err = run(
        "parse",
        "--manifest",
        manifest((other, 200, DATE, {}), (placeholder, 200, DATE, {}), (MARKETS, 200, DATE, [coin()])),
    )
    assert status == 0
    assert len(out.splitlines()) == 1
    assert [line.split(": ")[0] for line in err.splitlines()] == ["0.json", "1.json"]
    assert "api.etherscan.io/v2/api" in err
    assert "SECRET" not in err


def test_manifest_tells_each_bad_answer_in_one_line_reads_the_others_and_fails(run, manifest):
    entries = [(MARKETS, 429, DATE, b"Throttled"), (MARKETS, 200, DATE, b"<html>"), (MARKETS, 200, DATE, [coin()])]
    status, out, err = run("parse", "--manifest", manifest(*entries))
    assert status == 1
    assert len(out.splitlines()) == 1
    assert [line.split(": ")[0] for line in err.splitlines()] == ["0.json", "1.json"]
    assert "CG-secret" not in err


def test_manifest_without_a_date_takes_the_time_given_or_says_it_took_now(run, manifest):
    path = manifest((MARKETS, 200, {}, [coin()]))
    status, out, err = run("parse", "--manifest", path, "--fetched-at", FETCHED_AT)
    assert (status, err) == (0, "")
    assert json.loads(out)["values"]["known_at"] == NOON + 7_300
    status, out, err = run("parse", "--manifest", path)
    assert status == 0
    assert "now" in err


def test_manifest_that_is_none_names_the_line(run, tmp_path):
    bad_url = '{"file": "f", "url": "http://[api.coingecko.com/api/v3/global"}\n'
    bad_file = '{"file": "a\\u0000b", "url": "https://api.coingecko.com/api/v3/global"}\n'
    bodies = ("not json\n", '{"url": "x"}\n', "[]\n", '{"file": "f", "url": "u", "status": "x"}\n')
    for text in (*bodies, bad_url, bad_file, b"\xff\xfe{}"):
        (tmp_path / "m.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        status, out, err = run("parse", "--manifest", "m.jsonl")
        assert (status, out) == (1, "")
        assert "line 1" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Date": ["Mon, 18 May 2026 12:00:07 GMT"]},
        [["date", "Mon, 18 May 2026 12:00:07 -0000"]],
        {"date": "Mon, 18 May 2026 12:00:07 +0000", "via": ["a", "b"]},
    ],
)
def test_headers_are_read_as_recorders_write_them(run, tmp_path, headers):
    body = {
        "name": "Fear and Greed Index",
        "data": [{"value": "47", "value_classification": "Neutral", "timestamp": "1779062400"}],
    }
    (tmp_path / "f.json").write_text(json.dumps(body))
    entry = {"file": "f.json", "url": "https://api.alternative.me/fng/?limit=1", "headers": headers}
    (tmp_path / "m.jsonl").write_text(json.dumps(entry) + "\n")
    status, out, err = run("parse", "--manifest", "m.jsonl")
    assert (status, err) == (0, "")
    assert json.loads(out)["values"]["first_seen_at"] == 1_779_105_607_000


@pytest.mark.parametrize("headers", [None, [1], "date", [["date"]]])
def test_headers_of_no_shape_cost_the_date_only(run, tmp_path, headers):
    (tmp_path / "f.json").write_text('{"name": "x", "data": [{"value": "47", "timestamp": "1779062400"}]}')
    entry = {"file": "f.json", "url": "https://api.alternative.me/fng/", "headers": headers}
    (tmp_path / "m.jsonl").write_text(json.dumps(entry) + "\n")
    status, out, err = run("parse", "--manifest", "m.jsonl")
    assert (status, len(out.splitlines())) == (0, 1)
    assert "no Date header" in err


def test_manifest_and_source_exclude_each_other(run, manifest):
    status, _, err = run("parse", "coingecko.markets", "--manifest", manifest())
    assert status == 2
    assert "--manifest" in err


@pytest.mark.shared_data
def test_recorded_answers_are_read(run, shared_data):
    status, out, err = run("parse", "--manifest", str(shared_data / "recorded" / "MANIFEST.jsonl"))
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) > 700
    assert {row["table"] for row in rows} >= {"price_data_real", "market_data", "crypto_assets", "macro_indicators"}
    told = [line for line in err.splitlines() if "skipped" not in line and "no Date header" not in line]
    assert status == (1 if told else 0)
    assert all("only interval=1d is read" in line for line in told)  # hours of Yahoo's are no daily indicator
