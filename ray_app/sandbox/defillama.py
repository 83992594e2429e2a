"""DeFiLlama, simulated: shared/upstreams.md §13.

A history has a point for every day at its start; today's moves with what is locked now until the day is over.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

import numpy as np

from ray_app.clock import DAY_MS, HOUR_MS
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.onchain_series import level_of, wave
from ray_app.sandbox.rng import FloatArray, IntArray

#: 2024-01-01 UTC, where histories begin here; the real ones reach back to 2018
FIRST_DAY: Final = 19_723
#: name, gecko_id, ticker, chain id; two chains of one coin, and one without a coin, are among them
CHAINS: Final[tuple[tuple[str, str | None, str | None, int | str | None], ...]] = (
    ("Ethereum", "ethereum", "ETH", 1),
    ("Solana", "solana", "SOL", None),
    ("BSC", "binancecoin", "BNB", 56),
    ("Tron", "tron", "TRON", 728_126_428),
    ("Bitcoin", "bitcoin", "BTC", None),
    ("Base", None, None, 8_453),
    ("Avalanche", "avalanche-2", "AVAX", 43_114),
    ("Sui", "sui", "SUI", None),
    ("Aptos", "aptos", "APT", None),
    ("Arbitrum", "arbitrum", "ARB", 42_161),
    ("OP Mainnet", "optimism", "OP", 10),
    ("Polygon", "matic-network", "POL", 137),
    ("Polygon zkEVM", "matic-network", None, 1_101),
    ("Cardano", "cardano", "ADA", None),
    ("Near", "near", "NEAR", None),
    ("TON", "the-open-network", "TON", None),
    ("Cronos", "crypto-com-chain", "CRO", 25),
    ("Cronos zkEVM", "crypto-com-chain", None, 388),
    ("Hyperliquid L1", "hyperliquid", "HYPE", 999),
    ("Mantle", "mantle", "MNT", 5_000),
    ("Sei", "sei-network", "SEI", 1_329),
    ("Algorand", "algorand", "ALGO", None),
    ("Stellar", "stellar", "XLM", None),
    ("Hedera", "hedera-hashgraph", "HBAR", 295),
    ("XRPL", "ripple", "XRP", None),
    ("Osmosis", "osmosis", "OSMO", "osmosis-1"),
)
_COIN: Final = {name: gecko or name for name, gecko, _, _ in CHAINS}


def locked(seed: int, chain: str, times: IntArray) -> FloatArray:
    """USD locked on a chain."""
    return wave(seed, f"{chain} tvl", times, level_of(seed, _COIN[chain], "tvl"), swing=0.3, growth=0.1)


def _moments(now: int) -> IntArray:
    """The moment each point is made from: its day's start; today's: now, to the hour."""
    moments = np.arange(FIRST_DAY, now // DAY_MS + 1, dtype=np.int64) * DAY_MS
    moments[-1] = now // HOUR_MS * HOUR_MS
    return moments


class Chains(SimulatedEndpoint):
    """GET /v2/chains."""

    source: ClassVar[str] = "defillama"
    name = "chains"
    pattern = re.compile(r"/v2/chains")

    def answer(self, question: Question, world: World) -> Answer:
        now = np.array([question.now_ms // HOUR_MS * HOUR_MS], dtype=np.int64)
        return json_answer(
            [
                {
                    "gecko_id": gecko,
                    "tvl": float(locked(world.seed, name, now)[0]),
                    "tokenSymbol": symbol,
                    "cmcId": None,
                    "name": name,
                    "chainId": number,
                }
                for name, gecko, symbol, number in CHAINS
            ]
        )


class ChainTvl(SimulatedEndpoint):
    """GET /v2/historicalChainTvl/{chain}."""

    source: ClassVar[str] = "defillama"
    name = "chain_tvl"
    pattern = re.compile(r"/v2/historicalChainTvl/([^/]+)")

    def answer(self, question: Question, world: World) -> Answer:
        if question.subject not in _COIN:
            raise Rejection(Answer(400, b"Chain not found", content_type="text/plain"))
        moments = _moments(question.now_ms)
        return json_answer(_points(moments, locked(world.seed, question.subject, moments)))


class TotalTvl(SimulatedEndpoint):
    """GET /v2/historicalChainTvl."""

    source: ClassVar[str] = "defillama"
    name = "total_tvl"
    pattern = re.compile(r"/v2/historicalChainTvl")

    def answer(self, question: Question, world: World) -> Answer:
        moments = _moments(question.now_ms)
        total = np.zeros(len(moments))
        for name, *_ in CHAINS:
            total += locked(world.seed, name, moments)
        return json_answer(_points(moments, total))


class Stablecoins(SimulatedEndpoint):
    """GET /stablecoincharts/all: ``date`` is text here."""

    source: ClassVar[str] = "stablecoins"
    name = "stablecoins"
    pattern = re.compile(r"/stablecoincharts/all")

    def answer(self, question: Question, world: World) -> Answer:
        moments = _moments(question.now_ms)
        supply = wave(world.seed, "stablecoins", moments, 2.6e11, swing=0.05, noise=0.005, growth=0.25).tolist()
        days = (moments // DAY_MS * DAY_MS // 1_000).tolist()
        points: list[dict[str, Any]] = [
            {
                "date": str(day),
                "totalCirculating": {"peggedUSD": value, "peggedEUR": value / 400},
                "totalCirculatingUSD": {"peggedUSD": value * 0.9995, "peggedEUR": value / 350},
            }
            for day, value in zip(days, supply, strict=True)
        ]
        return json_answer(points)


def _points(moments: IntArray, values: FloatArray) -> list[dict[str, Any]]:
    days = (moments // DAY_MS * DAY_MS // 1_000).tolist()
    return [{"date": day, "tvl": value} for day, value in zip(days, values.round(2).tolist(), strict=True)]


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Chains(), ChainTvl(), TotalTvl(), Stablecoins())
