"""Blockchair, simulated: shared/upstreams.md §11. Answers are made every three minutes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from ray_app.clock import MINUTE_MS, from_ms
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, json_answer
from ray_app.sandbox.onchain_series import at, height, level_of, price, supply

#: chain → smallest units in a coin, seconds between blocks
_CHAINS: Final[Mapping[str, tuple[int, float]]] = {
    "bitcoin": (10**8, 600),
    "ethereum": (10**18, 12),
    "litecoin": (10**8, 150),
    "dogecoin": (10**8, 60),
    "bitcoin-cash": (10**8, 600),
    "dash": (10**8, 157),
    "zcash": (10**8, 75),
}
_CACHE_MS: Final = 3 * MINUTE_MS


class Stats(SimulatedEndpoint):
    """GET /{chain}/stats."""

    source: ClassVar[str] = "blockchair"
    name = "stats"
    pattern = re.compile(r"/([^/]+)/stats")

    def answer(self, question: Question, world: World) -> Answer:
        chain = question.subject
        if chain not in _CHAINS:
            error = "Invalid chain. Check the documentation: https://blockchair.com/api/docs"
            raise Rejection(json_answer({"data": None, "context": {"code": 404, "error": error}}, 404))
        made = question.now_ms // _CACHE_MS * _CACHE_MS
        data = _account(world, chain, made) if chain == "ethereum" else _mined(world, chain, made)
        cache = {"live": False, "duration": 180, "since": _utc(made), "until": _utc(made + _CACHE_MS), "time": 2.9e-6}
        context: dict[str, Any] = {
            "code": 200,
            "source": "A",
            "state": data["best_block_height"],
            "cache": cache,
            "api": {"version": "2.0.95-ie", "documentation": "https://blockchair.com/api/docs"},
            "servers": "API4",
            "request_cost": 1,
        }
        # Dogecoin's koinu may not fit 64 bits, which is the most that orjson writes; JSON knows no limit
        return Answer(200, json.dumps({"data": data, "context": context}).encode(), {})


def _utc(ms: int) -> str:
    return from_ms(ms).strftime("%Y-%m-%d %H:%M:%S")


def _common(world: World, chain: str, ms: int) -> dict[str, Any]:
    seed, (_, step) = world.seed, _CHAINS[chain]
    worth, coins = price(world, chain, ms), supply(world, chain, ms)
    best = height(ms) if chain == "bitcoin" else int(ms / 1_000 / step) - 1_000_000
    transactions = at(seed, f"{chain} transactions", ms, level_of(seed, chain, "transactions"))
    fee = at(seed, f"{chain} fee", ms, 0.6, swing=0.5, growth=0.0)
    # 0 is how Blockchair writes what it does not know
    return {
        "blocks": best + 1,
        "transactions": round(transactions) * 3_000,
        "blocks_24h": round(86_400 / step * at(seed, f"{chain} blocks", ms, 1.0, swing=0.02, growth=0.0)),
        "transactions_24h": round(transactions),
        "mempool_transactions": round(transactions / 12),
        "best_block_height": best,
        "best_block_time": _utc(ms - int(step * 400)),
        "average_transaction_fee_usd_24h": round(fee, 6),
        "median_transaction_fee_usd_24h": round(fee * 0.45, 6),
        "market_price_usd": 0 if worth is None else worth,
        "market_cap_usd": 0 if worth is None or coins is None else round(worth * coins),
        "market_dominance_percentage": 0,
    }


def _mined(world: World, chain: str, ms: int) -> dict[str, Any]:
    seed, (smallest, step) = world.seed, _CHAINS[chain]
    coins = supply(world, chain, ms)
    hashes = at(seed, f"{chain} hashes", ms, level_of(seed, chain, "hashes"))
    common = _common(world, chain, ms)
    return common | {
        "outputs": common["transactions"] * 2,
        "circulation": None if coins is None else round(coins * smallest),
        "difficulty": hashes * step / 2**32,
        "mempool_size": common["mempool_transactions"] * 600,
        "hashrate_24h": str(round(hashes)),
        "nodes": round(at(seed, f"{chain} nodes", ms, 5_000.0, swing=0.05)),
        "hodling_addresses": round(at(seed, f"{chain} holders", ms, 60 * level_of(seed, chain, "addresses"))),
        "suggested_transaction_fee_per_byte_sat": 2,
    }


def _account(world: World, chain: str, ms: int) -> dict[str, Any]:
    coins = supply(world, chain, ms)
    return _common(world, chain, ms) | {
        "circulation_approximate": None if coins is None else f"{round(coins * 1e9)}000000000",
        "difficulty": 0,
        "hashrate_24h": "0",
        "mempool_median_gas_price": 900_000_000,
        "mempool_tps": 12.5,
    }


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Stats(),)
