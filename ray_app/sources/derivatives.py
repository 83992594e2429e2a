"""What the venues of derivatives have in common: metrics with their units, contracts, and the rows of derivatives_data.

One table of metrics, so that a name means the same thing whoever states it. **event_time**: of a settled funding rate
its settlement, of a figure from a series its moment (a candle's end), of a snapshot the time the venue gives it. A
rate for a settlement that is still to come is ``predicted_funding_rate``, of the moment it was stated: nothing here is
of the future.

Contracts in USDT or USDC count as contracts in USD; their figures in that money are taken for dollars as stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

from ray_app.clock import MINUTE_MS
from ray_app.errors import MalformedPayload, RateLimited, RegionBlocked, UpstreamUnavailable
from ray_app.sources.base import Exchange, Request, Row
from ray_app.sources.derivatives_coins import COINS
from ray_app.sources.reading import (
    PRICE,
    USD_AMOUNT,
    Bounds,
    Findings,
    decimal,
    decode,
    epoch_time,
    identifier,
    not_ahead,
    number,
    requested,
    shown,
)
from ray_app.sources.refusals import Refusal, read_answer, refusal_in, retry_after_s
from ray_app.sources.statements import statement_row


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number of derivatives_data is. ``scaled``: how the size of a contract of many coins changes it."""

    unit: str
    description: str
    bounds: Bounds
    scaled: int = 0  # 1: times the coins of a contract; -1: divided by them


_RATE = Bounds("a funding rate as a fraction", -1.0, 1.0)
_COINS = Bounds("an amount of coins", 0.0, 1e24)

METRICS: Final[Mapping[str, Metric]] = {
    "funding_rate": Metric(
        "fraction per funding interval",
        "settled: longs pay shorts where positive; 0.0001 is 0.01 %. Deribit: of the last 8 hours, stated hourly",
        _RATE,
    ),
    "funding_rate_1h": Metric("fraction per hour", "what Deribit's continuous funding came to in an hour", _RATE),
    "predicted_funding_rate": Metric(
        "fraction per funding interval", "of the settlement to come, as estimated when stated", _RATE
    ),
    "open_interest": Metric("coins", "open positions, one side, in the base coin", _COINS, scaled=1),
    "open_interest_contracts": Metric("contracts", "the same in contracts whose size the answer does not say", _COINS),
    "open_interest_usd": Metric("USD", "the same at the venue's price; USDT counts as a dollar", USD_AMOUNT),
    "options_open_interest": Metric("coins", "open options of all expiries and strikes, puts and calls", _COINS),
    "put_call_ratio": Metric(
        "ratio", "open puts / open calls, all expiries, in coins", Bounds("a ratio of puts to calls", 0.0, 1e6)
    ),
    "mark_price": Metric("USD", "the price positions are valued at, of one coin", PRICE, scaled=-1),
    "index_price": Metric("USD", "the spot index the contract follows, of one coin", PRICE, scaled=-1),
    "basis_pct": Metric(
        "percent", "(last price / index - 1) * 100; positive: above spot", Bounds("a basis in percent", -100.0, 1e4)
    ),
    "dvol": Metric(
        "percent per year", "Deribit's volatility index, close of the hour", Bounds("a volatility", 1.0, 1e3)
    ),
    "long_short_ratio": Metric(
        "ratio", "accounts that are long / accounts that are short, all traders", Bounds("a ratio", 0.0, 1e6)
    ),
    "volume_24h_usd": Metric("USD", "traded in the 24 hours before", USD_AMOUNT),
}

#: Bybit: "not available to you due to regulatory restrictions"; OKX: "restricted due to local compliance"
_COMPLIANCE: Final = frozenset({10_024, 51_155})
#: error envelopes repeat what was asked, but are no longer than this
_LONGEST_ENVELOPE: Final = 64_000
#: a contract of many coins: 1000PEPEUSDT (Binance, Bybit), 1MBABYDOGEUSDT (Binance), SHIB1000USDT (Bybit)
_MANY: Final = re.compile(r"(?:(1000|10000|1000000|1M)([A-Z]+)|([A-Z]+)(1000|10000|1000000))")

#: A settlement is public at once, a point of a series after some minutes [assumed, until the node measures its own].
FUNDING_LAG_MS: Final = MINUTE_MS
SERIES_LAG_MS: Final = 10 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two venues whose latest statements of a metric about one coin may be compared while they are less than
    ``within_s`` apart; a difference of more than ``percent`` means that one of them, or our reading, is wrong.
    """  # noqa: D205 - one sentence after the other

    metric: str
    venues: tuple[str, str]
    percent: float
    within_s: int = 600


#: venues to hold against each other
DISAGREEMENTS: Final[tuple[Disagreement, ...]] = tuple(
    Disagreement(metric, pair, 1.0)
    for metric in ("mark_price", "index_price")
    for pair in (("binance", "bybit"), ("binance", "okx"), ("bybit", "okx"))
    if metric == "mark_price" or "okx" not in pair  # OKX is not asked for its index
)


@dataclass(frozen=True, slots=True)
class Contract:
    """What a venue's symbol stands for: ``units`` coins of ``coin_id``."""

    symbol: str
    coin_id: str
    units: int = 1


def contract_of(symbol: str, base: str) -> Contract | None:
    """The contract of a base ticker; None: not one of :data:`ray_app.sources.derivatives_coins.COINS`."""
    if base in COINS:
        return Contract(symbol, COINS[base])
    many = _MANY.fullmatch(base)
    if many is None:
        return None
    ticker, units = many[2] or many[3], (many[1] or many[4]).replace("M", "000000")
    return Contract(symbol, COINS[ticker], int(units)) if ticker in COINS else None


def usdt_perpetual(symbol: object) -> Contract | None:
    """Binance's and Bybit's perpetual contracts in USDT (BTCUSDT); None for any other, such as BTCUSDT_260626."""
    if not isinstance(symbol, str) or len(symbol) > 64 or not symbol.endswith("USDT"):
        return None
    return contract_of(symbol, symbol.removesuffix("USDT"))


def usdt_swap(symbol: object) -> Contract | None:
    """OKX's perpetual contracts in USDT (BTC-USDT-SWAP)."""
    if not isinstance(symbol, str) or len(symbol) > 64 or not symbol.endswith("-USDT-SWAP"):
        return None
    return contract_of(symbol, symbol.removesuffix("-USDT-SWAP"))


def coins_context(coins: Sequence[str]) -> dict[str, str]:
    """The context of a request whose answer is about all contracts, where rows of these coins alone are wanted."""
    return {"coins": ",".join(coins)} if coins else {}


def wanted(request: Request) -> Callable[[Contract | None], TypeGuard[Contract]]:
    """Whether a contract is a known one and of the coins that the request's context names (default: of any)."""
    coins = frozenset(requested(request.context.get("coins")))

    def is_wanted(contract: Contract | None) -> TypeGuard[Contract]:
        return contract is not None and (not coins or contract.coin_id in coins)

    return is_wanted


def present(value: object) -> object:
    """The value, with the empty string that venues write for "nothing" as None."""
    return None if value == "" else value


@dataclass(frozen=True, slots=True)
class Codes:
    """A venue's own error codes that say more than "no", under any status.

    ``slow_down``: too many requests; ``banned``: the address waits ``ban_s``, where the answer does not say how long;
    ``transient``: the venue's own trouble, which passes.
    """

    slow_down: frozenset[int]
    transient: frozenset[int]
    banned: frozenset[int] = frozenset()
    ban_s: float | None = None


def read_venue(exchange: Exchange, codes: Codes) -> Any:
    """As :func:`read_answer`, with the venue's own ``codes``.

    RegionBlocked also for the codes by which Bybit and OKX say that local law keeps them from answering.
    """
    endpoint, status = exchange.request.endpoint, exchange.status
    refusal = _envelope(exchange) if status == 200 or 400 <= status < 500 else None
    if refusal is not None:
        said = f"the upstream refused: {refusal.message} (code {refusal.code})"
        if refusal.code in _COMPLIANCE:
            words = f"this venue refuses requests from this region (code {refusal.code}): {refusal.message}"
            raise RegionBlocked(endpoint, words)
        if refusal.code in codes.slow_down:
            raise RateLimited(endpoint, said, retry_after_s(exchange))
        if refusal.code in codes.banned:
            raise RateLimited(endpoint, said, retry_after_s(exchange) or codes.ban_s)
        if refusal.code in codes.transient:
            raise UpstreamUnavailable(endpoint, said)
    return read_answer(exchange)


def _envelope(exchange: Exchange) -> Refusal | None:
    """The error envelope of an answer that is short enough to be one."""
    if len(exchange.body) > _LONGEST_ENVELOPE or not exchange.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        return refusal_in(decode(exchange.request.endpoint, exchange.body))
    except MalformedPayload:
        return None


def asked(endpoint: str, request: Request, name: str, item: Mapping[str, Any], member: str) -> None:
    """MalformedPayload where an item is about another instrument than the request (``name``) asked for."""
    wanted, got = request.params.get(name), item.get(member)
    if wanted and isinstance(got, str) and got != wanted:
        raise MalformedPayload(endpoint, f"asked for {shown(wanted)}, the answer is about {shown(got)}")


def in_range(request: Request, since: int, now: int, longest_ms: int, names: tuple[str, str]) -> Request:
    """``request`` for the newest ``longest_ms`` of [since, now]; :func:`earlier` asks for what lies before."""
    bounds = {names[0]: str(max(since, now - longest_ms)), names[1]: str(now)}
    return replace(request, params={**request.params, **bounds}, context={**request.context, "since": str(since)})


def earlier(request: Request, longest_ms: int, names: tuple[str, str]) -> Request | None:
    """The request for the range before this one's; None where it began at ``since``, or says neither.

    The two share a bound: whether a venue counts its start in or not, nothing falls between them.
    """
    said = [request.params.get(names[0]), request.context.get("since")]
    start, since = (int(one) if one and one.isascii() and one.isdigit() else 0 for one in said)
    if not since or start <= since:
        return None
    bounds = {names[0]: str(max(since, start - longest_ms)), names[1]: str(start)}
    return replace(request, params={**request.params, **bounds})


class Book:
    """The statements of one body: bounded, scaled to one coin, each key once."""

    def __init__(self, venue: str, source: str, fetched_at: int) -> None:
        self.found = Findings()
        self._venue = venue
        self._source = source
        self._fetched_at = fetched_at
        self._rows: dict[tuple[str, str, str, int], Row] = {}
        self._contradicted: set[tuple[str, str, str, int]] = set()
        self._times: list[int] = []

    def time(self, subject: str, field: str, value: object, unit_ms: int = 1) -> int | None:
        """A time that is not of the future; None and an issue for any other, for null too: a statement needs one."""
        read = epoch_time(self.found, subject, field, present(value), unit_ms)
        if read is None and present(value) is None:
            self.found.add("wrong_type", subject, field, "a statement without its time")
        read = not_ahead(self.found, subject, field, read, self._fetched_at)
        if read is not None:
            self._times.append(read)
        return read

    def state(
        self, contract: Contract, metric: str, event_time: int, value: object, lag_ms: int | None, *, venue: str = ""
    ) -> None:
        """One statement; an empty or null value is none, and what cannot be read is an issue.

        ``lag_ms``: None for live snapshots (known from the fetch). ``venue``: another than the book's.
        """
        what = METRICS[metric]
        read = number(self.found, contract.symbol, metric, present(value), what.bounds, where=str(event_time))
        if read is None:
            return
        if contract.units != 1 and what.scaled:
            units = contract.units
            read = float(decimal(read) * units if what.scaled > 0 else decimal(read) / units)
            if not what.bounds.low <= read <= what.bounds.high:
                self.found.add("out_of_range", contract.symbol, metric, f"{read:g} is not {what.bounds.what}")
                return
        at = venue or self._venue
        key = (at, contract.symbol, metric, event_time)
        row = statement_row(
            "derivatives_data",
            {"coin_id": contract.coin_id, "metric": metric, "venue": at, "instrument": contract.symbol},
            event_time,
            read,
            self._fetched_at,
            lag_ms,
            source=self._source,
        )
        if self._rows.setdefault(key, row) != row:
            self._contradicted.add(key)

    def rows(self) -> tuple[Row, ...]:
        """What was stated, without what was stated twice with different values (an issue each)."""
        for at, symbol, metric, event_time in sorted(self._contradicted):
            self.found.add("duplicate", symbol, f"{metric}@{event_time}", f"two values of {at} for one moment")
        return tuple(row for key, row in self._rows.items() if key not in self._contradicted)

    @property
    def oldest(self) -> int | None:
        """Ms of the oldest time read."""
        return min(self._times, default=None)


def instrument_of(endpoint: str, request: Request, name: str) -> str:
    """The instrument a request names, where the body does not; MalformedPayload if it names none."""
    said = identifier(request.params.get(name))
    if said is None or len(said) > 64:
        raise MalformedPayload(endpoint, f"the request names no {name}, and the body does not say what it is about")
    return said
