"""Fault scripts: read with care, deterministic, and each kind as a client on a real socket meets it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_app.assets import AssetRegistry
from ray_app.clock import HOUR_MS, MINUTE_MS, ManualClock
from ray_app.errors import ConfigError, MalformedPayload, RateLimited, UpstreamUnavailable
from ray_app.sandbox.app import SandboxApp, SandboxConfig, create_app
from ray_app.sandbox.faults import KINDS, load_faults, parse_faults
from ray_app.sandbox.request_log import read_log
from ray_app.sandbox.server import running
from ray_app.sources import endpoint
from ray_app.sources.base import Exchange, Request
from tests.sandbox.conftest import COINBASE, COINGECKO, NOW, Sandbox, epoch

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sandbox.md"
MARKETS, CANDLES = f"{COINGECKO}/coins/markets", f"{COINBASE}/products/BTC-USD/candles"


def script(*entries: str, seed: int = 0) -> str:
    return f"seed: {seed}\nfaults:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries)


# --- reading ---


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("faults: [", "faults.yaml: not YAML"),
        ("- 1", "must be a mapping with a list 'faults'"),
        ("faults: []\nsead: 1", "unknown key 'sead'"),
        ("faults: []\nseed: x", "seed 'x' is not a whole number"),
        ("faults:\n- kind: outage\n- 7", "line 3: fault 2: 7 is not a mapping"),
        ("faults:\n- kind: outage\n  from: +1h\n  every: 0", "line 4: fault 1: every: 0 is not a whole number"),
        ("faults:\n- kind: slow\n\n  bytes_per_s: 0", "line 4: fault 1: bytes_per_s: 0 will not do"),
        ("faults:\n- kind: outage\n  kind: slow", "line 3: 'kind' stands there twice"),
        ("faults:\n- {kind: [outage]}", "line 2: fault 1: kind .'outage'. is unknown"),
        ("faults:\n- {kind: {outage: 1}}", "line 2: fault 1: kind .* is unknown"),
        ("faults:\n- {kind: outage, source: [coinbase]}", "line 2: fault 1: source .* is unknown"),
        ("faults:\n- {kind: outage, endpoint: {a: 1}}", "line 2: fault 1: endpoint .* is unknown"),
        ("faults:\n- {kind: outage, source: coinbase, endpoint: markets}", "coinbase has no endpoint 'markets'; it has products, candles"),
        ("faults:\n- {kind: outage, endpoint: coinbase.markets}", "coinbase has no endpoint 'markets'"),
        ("faults:\n- {kind: outage, params: {page: [1]}}", "params: page: .1. is no value of a query parameter"),
        ("faults:\n- {kind: status, status: 200}", "status: 200 will not do"),
        ("faults:\n- {kind: html, status: 204}", "status: 204 will not do"),
        ("faults:\n- {kind: outage, from: +9999999d, to: 2026-11-24}", "from: '.9999999d' is too far away"),
        ("faults:\n- kind: outage\n- kind: explode", "line 3: fault 2: kind 'explode' is unknown; known: rate_limit"),
        ("faults:\n- kind: outage\n  speed: 3", "line 3: fault 1: 'speed' means nothing for outage"),
        ("faults:\n- {kind: outage, source: kraken}", "source 'kraken' is unknown; known: coingecko"),
        ("faults:\n- {kind: outage, endpoint: trades}", "endpoint 'trades' is unknown"),
        ("faults:\n- {kind: outage, from: soon}", "from: 'soon' is neither a time .* nor relative"),
        ("faults:\n- {kind: outage, from: +5m, to: +5m}", "'to' is not after 'from'"),
        ("faults:\n- {kind: outage, every: 0}", "every: 0 is not a whole number from 1"),
        ("faults:\n- {kind: outage, probability: 2}", "probability: 2 is not between 0 and 1"),
        ("faults:\n- {kind: rate_limit, retry_after: -1}", "retry_after: -1 will not do .seconds"),
        ("faults:\n- {kind: status, status: 99}", "status: 99 will not do"),
        ("faults:\n- {kind: truncate, how: badly}", "how: 'badly' will not do"),
        ("faults:\n- {kind: drop_ids, ids: bitcoin}", "ids: 'bitcoin' will not do"),
        ("faults:\n- {kind: outage, params: 3}", "params is not a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_script_is_named_with_its_line_and_entry(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_faults(path, NOW)
    assert str(path) in str(caught.value)


def test_a_script_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "faults.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"faults\.yaml is not UTF-8 text"):
        load_faults(tmp_path / "faults.yaml", NOW)


def test_anchors_and_merge_keys_of_yaml_work() -> None:
    text = "faults:\n- &one {kind: slow, from: +1h, bytes_per_s: 10}\n- {<<: *one, endpoint: candles, bytes_per_s: 20}"
    first, second = parse_faults(text, NOW).faults
    assert (first.options["bytes_per_s"], second.options["bytes_per_s"]) == (10, 20)
    assert first.start_ms == second.start_ms == NOW + HOUR_MS
    with pytest.raises(ConfigError, match="line 3: fault 2: bytes_per_s: 0"):
        parse_faults(text.replace("20", "0"), NOW)


def test_parameters_match_as_they_stand_in_a_query() -> None:
    faults = parse_faults(script("kind: outage, params: {page: 2, sparkline: false, ids: bitcoin}"), NOW)
    assert faults.pick("coingecko", "markets", NOW, {"page": "2", "sparkline": "false", "ids": "bitcoin"})
    assert not faults.pick("coingecko", "markets", NOW, {"page": "2", "sparkline": "true", "ids": "bitcoin"})


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_faults(tmp_path / "absent.yaml", NOW)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("+5m", NOW + 5 * MINUTE_MS),
        ("+3h5m", NOW + 3 * HOUR_MS + 5 * MINUTE_MS),
        ("-30s", NOW - 30_000),
        ("2026-11-24T08:00:00Z", NOW // HOUR_MS * HOUR_MS),
        ("2026-11-24 08:00:00", NOW // HOUR_MS * HOUR_MS),
    ],
)
def test_times_are_absolute_or_relative_to_the_first_start(text: str, ms: int) -> None:
    (fault,) = parse_faults(script(f"kind: outage, from: '{text}'"), NOW).faults
    assert fault.start_ms == ms


def test_the_first_entry_that_matches_counts() -> None:
    faults = parse_faults(
        script(
            "kind: html, source: coinbase, from: +1m, to: +2m",
            "kind: outage, endpoint: coingecko.markets, params: {page: 2}",
            "kind: timeout",
        ),
        NOW,
    )

    def kind(source: str, name: str, after_s: int, **params: str) -> str:
        fault = faults.pick(source, name, NOW + after_s * 1_000, params)
        assert fault is not None
        return fault.kind

    assert [kind("coinbase", "candles", s) for s in (59, 60, 119, 120)] == ["timeout", "html", "html", "timeout"]
    assert kind("coingecko", "markets", 0, page="2") == "outage"
    assert kind("coingecko", "markets", 0, page="1") == "timeout"


def test_every_and_probability_choose_the_same_requests_each_time() -> None:
    text = script("kind: html, every: 3", "kind: outage, probability: 0.3", seed=5)

    def kinds(text: str) -> list[str | None]:
        faults = parse_faults(text, NOW)
        picked = [faults.pick("coinbase", "candles", NOW, {}) for _ in range(3_000)]
        return [None if fault is None else fault.kind for fault in picked]

    first = kinds(text)
    assert first == kinds(text)
    assert first != kinds(text.replace("seed: 5", "seed: 6"))
    assert [n for n, kind in enumerate(first, 1) if kind == "html"] == list(range(3, 3_001, 3))
    assert Counter(first)["outage"] / 2_000 == pytest.approx(0.3, abs=0.04)


# --- on the wire ---


@pytest.fixture
def served(
    registry: AssetRegistry, tmp_path: Path
) -> Callable[..., AbstractContextManager[tuple[httpx.Client, SandboxApp]]]:
    """Serves a fault script on a real port: ``with served("kind: html") as (client, app)``."""

    @contextmanager
    def serve(*entries: str, seed: int = 0) -> Iterator[tuple[httpx.Client, SandboxApp]]:
        config = SandboxConfig(
            epoch(),
            7,
            None,
            parse_faults(script(*entries, seed=seed), NOW),
            tmp_path / "log.jsonl",
            registry,
            ManualClock(NOW),
        )
        app = create_app(config)
        with running(app) as url, httpx.Client(base_url=url, timeout=10) as client:
            yield client, app

    return serve


Served = Callable[..., AbstractContextManager[tuple[httpx.Client, SandboxApp]]]
pytestmark = pytest.mark.filterwarnings("error")


def exchange(request: Request, answer: httpx.Response) -> Exchange:
    return Exchange(request, answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content, NOW)


def markets(client: httpx.Client, **params: Any) -> httpx.Response:
    return client.get(MARKETS, params={"vs_currency": "usd", "precision": "full", "per_page": 250, **params})


@pytest.mark.integration
def test_rate_limit_with_and_without_retry_after(served: Served) -> None:
    with served("kind: rate_limit, retry_after: 90, source: coingecko", "kind: rate_limit") as (client, _):
        told, untold = markets(client), client.get(CANDLES)
        request = endpoint("coingecko.markets").request(["bitcoin"])
        with pytest.raises(RateLimited) as caught:
            endpoint("coingecko.markets").parse(exchange(request, told))
        assert caught.value.retry_after_s == 90
        assert told.json()["status"]["error_code"] == 429
        assert (untold.status_code, untold.json()) == (429, {"message": "Public rate limit exceeded"})
        assert "retry-after" not in untold.headers


@pytest.mark.integration
def test_statuses_in_each_form(served: Served) -> None:
    with served(
        "kind: status, params: {granularity: 60}, status: 502, body: html",
        "kind: status, params: {granularity: 300}, status: 500, body: empty",
        "kind: status",
    ) as (client, _):
        html, empty, plain = (client.get(CANDLES, params={"granularity": g}) for g in (60, 300, 900))
        assert html.status_code == 502
        assert "<html" in html.text
        assert (empty.status_code, empty.content) == (500, b"")
        assert (plain.status_code, plain.json()) == (503, {"message": "Internal server error"})
        request = endpoint("coinbase.candles").request("BTC-USD", 60, NOW - 60_000, NOW)
        with pytest.raises(UpstreamUnavailable):
            endpoint("coinbase.candles").parse(exchange(request, html))


@pytest.mark.integration
def test_timeout_gives_no_answer(served: Served, tmp_path: Path) -> None:
    with served("kind: timeout, params: {page: 1}, hold: 0.2", "kind: timeout") as (client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            markets(client, page=1)  # held, then closed without a word
        with pytest.raises(httpx.ReadTimeout):
            client.get(CANDLES, timeout=0.3)
    entries = read_log(tmp_path / "log.jsonl")
    assert [(entry.status, entry.fault, entry.bytes) for entry in entries] == [(0, "timeout", 0)] * 2


@pytest.mark.integration
def test_slow_bodies_trickle_and_are_complete(served: Served) -> None:
    with served("kind: slow, bytes_per_s: 4000, endpoint: ping", "kind: slow, bytes_per_s: 50") as (client, _):
        assert client.get(f"{COINGECKO}/ping").json() == {"gecko_says": "(V3) To the Moon!"}
        with client.stream("GET", CANDLES) as answer:
            pieces = answer.iter_raw()
            first = [len(piece) for piece in itertools.islice(pieces, 2)]
            assert first == [5, 5]  # ten pieces a second


@pytest.mark.integration
def test_a_slow_body_that_the_client_gives_up_is_logged_as_incomplete(served: Served, tmp_path: Path) -> None:
    with served("kind: slow, bytes_per_s: 10") as (client, _), client.stream("GET", CANDLES) as answer:
        next(answer.iter_raw())
    (entry,) = read_log(tmp_path / "log.jsonl")
    assert (entry.status, entry.fault) == (0, "slow")
    assert 0 < entry.bytes < 1_000


@pytest.mark.integration
def test_truncated_bodies(served: Served, tmp_path: Path) -> None:
    with served("kind: truncate, source: coinbase, at: 0.4", "kind: truncate, how: connection") as (client, _):
        cut = client.get(CANDLES, params={"granularity": 3600})
        assert cut.status_code == 200
        request = endpoint("coinbase.candles").request("BTC-USD", 3_600, NOW - HOUR_MS, NOW)
        with pytest.raises(MalformedPayload):
            endpoint("coinbase.candles").parse(exchange(request, cut))
        with pytest.raises(httpx.RemoteProtocolError):
            markets(client)
    whole, broken = read_log(tmp_path / "log.jsonl")
    assert (whole.status, broken.status) == (200, 0)
    assert broken.bytes > 0


@pytest.mark.integration
def test_duplicate_pages(served: Served) -> None:
    with served("kind: duplicate_page") as (client, _):
        one, two = (markets(client, per_page=10, page=page).json() for page in (1, 2))
        assert two == one[:10]
        assert one == one[:10] * 2
        candles = client.get(CANDLES, params={"granularity": 3600}).json()
        assert candles[:300] == candles[300:]


@pytest.mark.integration
def test_html_in_place_of_json(served: Served) -> None:
    with served("kind: html") as (client, _):
        answer = markets(client)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=UTF-8"
        request = endpoint("coingecko.markets").request(["bitcoin"])
        with pytest.raises(MalformedPayload):
            endpoint("coingecko.markets").parse(exchange(request, answer))


@pytest.mark.integration
def test_wrong_types(served: Served) -> None:
    with served("kind: wrong_types, share: 0.3", seed=3) as (client, _):
        first, again = markets(client).json(), markets(client).json()
        assert first == again
        kinds = Counter(type(row["current_price"]).__name__ for row in first)
        assert set(kinds) >= {"float", "str", "NoneType"}
        request = endpoint("coingecko.markets").request([row["id"] for row in first])
        parsed = endpoint("coingecko.markets").parse(exchange(request, markets(client)))
        assert any(issue.kind == "wrong_type" for issue in parsed.issues)
        candles = client.get(CANDLES, params={"granularity": 3600}).json()
        assert any(isinstance(value, str) for row in candles for value in row)


@pytest.mark.integration
def test_revised_values_stay_candles_and_stay_the_same(served: Served, registry: AssetRegistry) -> None:
    with served("kind: revise, endpoint: candles, params: {granularity: 3600}, magnitude: 0.02") as (client, app):
        revised, again = (client.get(CANDLES, params={"granularity": 3600}).json() for _ in range(2))
        assert revised == again
        market = app.world.market
        truth = market.candles(1, 3_600, revised[-1][0] * 1_000, revised[0][0] * 1_000)
        changed = [row for row in revised[::-1][:-1] if row[4] not in truth.bars.close]
        assert len(changed) > 290
        for (time, low, high, opened, close, _), true_time, true in zip(
            revised[::-1], truth.times.tolist(), truth.bars.close.tolist(), strict=False
        ):
            assert time * 1_000 == true_time
            assert low <= min(opened, close)
            assert max(opened, close) <= high
            assert close == pytest.approx(true, rel=0.02)


@pytest.mark.integration
def test_clock_skew_moves_every_stamp(served: Served) -> None:
    with served("kind: clock_skew, seconds: 7200") as (client, _):
        answer = client.get(CANDLES, params={"granularity": 3600})
        assert answer.json()[0][0] == NOW // HOUR_MS * 3_600 + 7_200
        assert answer.headers["date"] == "Tue, 24 Nov 2026 10:37:25 GMT"
        assert markets(client, ids="bitcoin").json()[0]["last_updated"] == "2026-11-24T10:37:00.000Z"
        chart = client.get(f"{COINGECKO}/coins/bitcoin/market_chart", params={"vs_currency": "usd", "days": 1}).json()
        assert chart["prices"][-1][0] == NOW + 7_200_000
        assert client.get(f"{COINGECKO}/global").json()["data"]["updated_at"] == NOW // MINUTE_MS * 60 + 7_200


@pytest.mark.integration
def test_outage_resets_the_connection(served: Served, tmp_path: Path) -> None:
    with served("kind: outage, every: 2") as (client, _):
        assert markets(client).status_code == 200
        with pytest.raises(httpx.ReadError):
            markets(client)
        assert markets(client).status_code == 200  # the next connection is answered
    assert [(e.status, e.fault) for e in read_log(tmp_path / "log.jsonl")] == [(200, None), (0, "outage"), (200, None)]


@pytest.mark.integration
def test_dropped_ids(served: Served) -> None:
    with served("kind: drop_ids, ids: [bitcoin], params: {page: 1}", "kind: drop_ids, share: 0.5") as (client, _):
        assert {row["id"] for row in markets(client, ids="bitcoin,ethereum", page=1).json()} == {"ethereum"}
        some, again = markets(client).json(), markets(client).json()
        assert some == again
        assert 5 < len(some) < 35
        assert "bitcoin" not in client.get(
            f"{COINGECKO}/simple/price", params={"vs_currencies": "usd", "ids": "bitcoin", "page": 1}
        ).json()  # fmt: skip


@pytest.mark.integration
def test_a_fault_never_answers_304(served: Served) -> None:
    with served("kind: drop_ids, every: 2, share: 0.5") as (client, _):
        url = f"{COINGECKO}/coins/list"
        tag = client.get(url).headers["etag"]
        spoilt = client.get(url, headers={"if-none-match": tag})
        assert spoilt.status_code == 200
        assert "etag" not in spoilt.headers
        assert client.get(url, headers={"if-none-match": tag}).status_code == 304


# --- the documentation ---


def documented_script() -> str:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return str(text)


async def test_the_documented_script_does_what_it_says(sandbox: Callable[..., Sandbox]) -> None:
    world = sandbox(faults=parse_faults(documented_script(), NOW))

    async def ids() -> set[str]:
        return {row["id"] for row in (await world.get(MARKETS, vs_currency="usd")).json()}

    assert "bitcoin" in await ids()
    world.clock.advance(6 * 60)
    limited = await world.get(MARKETS, vs_currency="usd")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "90")
    statuses = []
    for _ in range(12):
        try:
            statuses.append((await world.get(CANDLES)).status_code)
        except ConnectionResetError:
            statuses.append(0)
    assert statuses[2::3] == [502] * 4
    assert set(statuses[::3] + statuses[1::3]) == {200, 0}
    world.clock.advance(6 * 60)
    assert "bitcoin" not in await ids()
    world.clock.advance(4 * 60)
    assert "bitcoin" in await ids()
    world.clock.advance(60 * 60)
    with pytest.raises(ConnectionResetError):
        await world.get(f"{COINBASE}/products")


def test_every_kind_and_option_is_documented() -> None:
    text = DOCS.read_text()
    for kind, options in KINDS.items():
        (row,) = re.findall(rf"^\| `{kind}` \|.*$", text, re.MULTILINE)
        for option in options:
            assert f"`{option}`" in row, f"{kind}: {option}"
