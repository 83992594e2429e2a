"""Good answers of the sources of on-chain figures, fear and greed, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.sources import ENDPOINTS, Request

NOON = 1_779_105_600_000
FETCHED_AT = NOON + 7_300
DAY_S = 86_400
#: 2026-05-18T00:00:00Z, seconds
TODAY = NOON // 1_000 - DAY_S // 2


def asset_day(asset: str, day: str, **changes: Any) -> dict[str, Any]:
    """An item of Coin Metrics' asset-metrics."""
    return {
        "asset": asset,
        "time": f"{day}T00:00:00.000000000Z",
        "AdrActCnt": "812345",
        "TxCnt": "401234",
        "HashRate": "912345678.5",
        "SplyCur": "19950123.5",
        "CapMrktCurUSD": "1549887234111.25",
        "CapMVRVCur": "1.834",
        "PriceUSD": "77688.25",
        "AssetEODCompletionTime": str(TODAY + 4 * 3_600),
    } | changes


def _gas() -> dict[str, Any]:
    return {
        "LastBlock": "23467872",
        "SafeGasPrice": "0.496839934",
        "ProposeGasPrice": "0.496839935",
        "FastGasPrice": "0.55411917",
        "suggestBaseFee": "0.496839934",
        "gasUsedRatio": "0.5,0.49,0.51",
    }


BODIES: Mapping[str, Any] = {
    "coinmetrics.asset_metrics": {
        "data": [
            asset_day("btc", "2026-05-16", AssetEODCompletionTime=str(TODAY - DAY_S + 5 * 3_600)),
            asset_day("eth", "2026-05-16", HashRate=None, AssetEODCompletionTime=None),
            asset_day("btc", "2026-05-17"),
            asset_day("eth", "2026-05-17", HashRate=None),
        ],
        "next_page_token": "0.MjAyNi0wNS0xN1QwMDowMDowMFo",
        "next_page_url": "https://community-api.coinmetrics.io/v4/timeseries/asset-metrics?next_page_token=0.MjAy",
    },
    "blockchain_com.chart": {
        "status": "ok",
        "name": "Hash Rate",
        "unit": "Hash Rate TH/s",
        "period": "day",
        "description": "The estimated number of terahashes per second.",
        "values": [{"x": TODAY - 2 * DAY_S, "y": 9.1e8}, {"x": TODAY - DAY_S, "y": 9.3e8}, {"x": TODAY, "y": 4.1e8}],
    },
    "blockchain_com.stats": {
        "timestamp": NOON - 60_000,
        "market_price_usd": 77_671.3,
        "hash_rate": 9.2e11,
        "total_fees_btc": 512_345_678,
        "n_btc_mined": 45_000_000_000,
        "n_tx": 412_345,
        "n_blocks_mined": 144,
        "minutes_between_blocks": 9.9,
        "totalbc": 1_995_012_350_000_000,
        "n_blocks_total": 950_123,
        "estimated_transaction_volume_usd": 8.1e9,
        "miners_revenue_usd": 3.6e7,
        "difficulty": 1.27e14,
    },
    "mempool.hashrate": {
        "hashrates": [
            {"timestamp": TODAY - DAY_S, "avgHashrate": 9.13e20},
            {"timestamp": TODAY, "avgHashrate": 9.31e20},
        ],
        "difficulty": [{"time": TODAY - 3 * DAY_S - 123, "height": 949_536, "difficulty": 1.27e14, "adjustment": 1.01}],
        "currentHashrate": 9.4e20,
        "currentDifficulty": 1.27e14,
    },
    "mempool.fees": {"fastestFee": 3, "halfHourFee": 2.5, "hourFee": 2, "economyFee": 1, "minimumFee": 0.5},
    "mempool.mempool": {
        "count": 34_567,
        "vsize": 21_345_678,
        "total_fee": 45_678_901,
        "fee_histogram": [[3.1, 50_012]],
    },
    "mempool.difficulty_adjustment": {
        "progressPercent": 44.4,
        "difficultyChange": -1.25,
        "estimatedRetargetDate": NOON + 600_000_000,
        "remainingBlocks": 1_121,
        "remainingTime": 665_977_000,
        "previousRetarget": 2.5,
        "previousTime": TODAY - 3 * DAY_S,
        "nextRetargetHeight": 951_552,
        "timeAvg": 594_000,
        "adjustedTimeAvg": 594_000,
        "timeOffset": 0,
        "expectedBlocks": 895.5,
    },
    "etherscan.gas_oracle": {"status": "1", "message": "OK", "result": _gas()},
    "etherscan.eth_supply": {
        "status": "1",
        "message": "OK",
        "result": {
            "EthSupply": "122373866217800000000000000",
            "Eth2Staking": "1157529105115885000000000",
            "BurntFees": "3102505506455601519229842",
            "WithdrawnTotal": "1170200333006131000000000",
        },
    },
    "etherscan.eth_price": {
        "status": "1",
        "message": "OK",
        "result": {
            "ethbtc": "0.0277",
            "ethbtc_timestamp": str(NOON // 1_000 - 20),
            "ethusd": "2150.55",
            "ethusd_timestamp": str(NOON // 1_000 - 18),
        },
    },
    "blockchair.stats": {
        "data": {
            "blocks": 950_124,
            "transactions": 1_234_567_890,
            "circulation": 1_995_012_350_000_000,
            "blocks_24h": 145,
            "transactions_24h": 412_345,
            "difficulty": 1.27e14,
            "mempool_transactions": 34_567,
            "mempool_size": 21_345_678,
            "best_block_height": 950_123,
            "best_block_time": "2026-05-18 11:55:31",
            "average_transaction_fee_usd_24h": 0.75,
            "median_transaction_fee_usd_24h": 0.31,
            "hashrate_24h": "925000000000000000000",
            "nodes": 23_456,
            "market_price_usd": 77_650,
            "market_cap_usd": 1_549_127_090_000,
            "hodling_addresses": 57_123_456,
        },
        "context": {
            "code": 200,
            "source": "A",
            "state": 950_123,
            "cache": {
                "live": False,
                "duration": 180,
                "since": "2026-05-18 11:58:49",
                "until": "2026-05-18 12:01:49",
                "time": 2.8e-6,
            },
            "api": {"version": "2.0.95-ie"},
            "request_cost": 1,
        },
    },
    "defillama.chains": [
        {
            "gecko_id": "ethereum",
            "tvl": 5.1e10,
            "tokenSymbol": "ETH",
            "cmcId": "1027",
            "name": "Ethereum",
            "chainId": 1,
        },
        {"gecko_id": None, "tvl": 3.2e9, "tokenSymbol": None, "cmcId": None, "name": "Base", "chainId": 8_453},
        {
            "gecko_id": "osmosis",
            "tvl": 2.1e7,
            "tokenSymbol": "OSMO",
            "cmcId": "12220",
            "name": "Osmosis",
            "chainId": "x",
        },
    ],
    "defillama.chain_tvl": [
        {"date": TODAY - 2 * DAY_S, "tvl": 50_123_456_789},
        {"date": TODAY - DAY_S, "tvl": 50_987_654_321},
    ],
    "defillama.total_tvl": [
        {"date": TODAY - 2 * DAY_S, "tvl": 101_123_456_789},
        {"date": TODAY - DAY_S, "tvl": 101_987_654_321},
    ],
    "defillama.stablecoins": [
        {
            "date": str(TODAY - 2 * DAY_S),
            "totalCirculating": {"peggedUSD": 2.45e11, "peggedEUR": 6.1e8},
            "totalCirculatingUSD": {"peggedUSD": 2.449e11, "peggedEUR": 7.1e8},
        }
    ],
    "alternative_me.fng": {
        "name": "Fear and Greed Index",
        "data": [
            {
                "value": "62",
                "value_classification": "Greed",
                "timestamp": str(TODAY),
                "time_until_update": "43200",
            },
            {"value": "24", "value_classification": "Extreme Fear", "timestamp": str(TODAY - DAY_S)},
        ],
        "metadata": {"error": None},
    },
}
REQUESTS: Mapping[str, Callable[[], Request]] = {
    "coinmetrics.asset_metrics": lambda: ENDPOINTS["coinmetrics.asset_metrics"].request(
        ("btc", "eth"), ("AdrActCnt", "TxCnt", "HashRate", "PriceUSD"), NOON - 5 * 86_400_000
    ),
    "blockchain_com.chart": lambda: ENDPOINTS["blockchain_com.chart"].request("hash-rate", NOON - 5 * 86_400_000, NOON),
    "blockchain_com.stats": ENDPOINTS["blockchain_com.stats"].request,
    "mempool.hashrate": lambda: ENDPOINTS["mempool.hashrate"].request("1m"),
    "mempool.fees": ENDPOINTS["mempool.fees"].request,
    "mempool.mempool": ENDPOINTS["mempool.mempool"].request,
    "mempool.difficulty_adjustment": ENDPOINTS["mempool.difficulty_adjustment"].request,
    "etherscan.gas_oracle": ENDPOINTS["etherscan.gas_oracle"].request,
    "etherscan.eth_supply": ENDPOINTS["etherscan.eth_supply"].request,
    "etherscan.eth_price": ENDPOINTS["etherscan.eth_price"].request,
    "blockchair.stats": lambda: ENDPOINTS["blockchair.stats"].request("bitcoin"),
    "defillama.chains": ENDPOINTS["defillama.chains"].request,
    "defillama.chain_tvl": lambda: ENDPOINTS["defillama.chain_tvl"].request("OP Mainnet"),
    "defillama.total_tvl": ENDPOINTS["defillama.total_tvl"].request,
    "defillama.stablecoins": ENDPOINTS["defillama.stablecoins"].request,
    "alternative_me.fng": ENDPOINTS["alternative_me.fng"].request,
}
