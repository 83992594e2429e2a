from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from importlib.resources import files

import polars as pl
import pytest

from ray_app.assets import ACTIVE, INACTIVE, MERGED, RENAMED, REPLAY_IDS_FROM, Asset, AssetRegistry, FormerTicker
from ray_app.clock import to_ms
from ray_app.errors import UnknownSymbol

SEED = AssetRegistry.seed()


def ms(day: str) -> int:
    return to_ms(datetime.fromisoformat(day).replace(tzinfo=UTC))


# --- the packaged list ---


def test_seed_is_large_and_well_formed():
    assert len(SEED.active()) >= 400
    assert len({asset.asset_id for asset in SEED}) == len(SEED)
    assert {asset.status for asset in SEED} == {ACTIVE, RENAMED, MERGED, INACTIVE}
    for asset in SEED:
        assert re.fullmatch(r"[A-Z0-9]{1,12}", asset.symbol), asset
        assert re.fullmatch(r"[a-z0-9-]+", asset.coin_id), asset
        assert asset.name == asset.name.strip() != ""
        assert asset.coinbase_product is None or re.fullmatch(r"[A-Z0-9]+-USD", asset.coinbase_product), asset
        assert (asset.market_cap_rank is not None) == (asset.status == ACTIVE), asset
        assert (asset.valid_to is None) == (asset.status == ACTIVE), asset
        assert asset.status in {ACTIVE, INACTIVE} or asset.successor_coin_id is not None
        assert asset.successor_coin_id is None or SEED.by_coin_id(asset.successor_coin_id).status == ACTIVE
        assert (asset.successor_ratio is None) == (asset.successor_coin_id is None)
        assert asset.valid_from is None or asset.valid_to is None or asset.valid_from < asset.valid_to
    for former in SEED.former:
        assert SEED.by_coin_id(former.coin_id) is not None
        assert SEED.by_coin_id(former.coin_id).symbol != former.symbol


def test_ids_in_the_packaged_list_are_dense_and_in_order():
    """Appending is the only way to grow it: an id, once given out, is in databases."""
    records = list(csv.DictReader(files("ray_app").joinpath("data", "assets.csv").read_text().splitlines()))
    assert [int(record["asset_id"]) for record in records] == list(range(1, len(records) + 1))
    assert (SEED.by_id(1).symbol, SEED.by_id(2).symbol, SEED.by_id(43).symbol) == ("BTC", "ETH", "POL")


@pytest.mark.parametrize(
    ("symbol", "coin_id"),
    [("BTC", "bitcoin"), ("POL", "polygon-ecosystem-token"), ("SNX", "havven"), ("ZEN", "zencash"), ("IOST", "iostoken"), ("SKL", "skale"), ("XNO", "nano"), ("SC", "siacoin"), ("LUNC", "terra-luna"), ("LUNA", "terra-luna-2"), ("USTC", "terrausd"), ("AVAX", "avalanche-2"), ("RENDER", "render-token"), ("FET", "fetch-ai")],
)  # fmt: skip
def test_ids_that_are_easy_to_get_wrong(symbol, coin_id):
    assert SEED.resolve(symbol).asset.coin_id == coin_id


@pytest.mark.parametrize(
    ("old", "new", "day", "ratio", "status"),
    [
        ("MATIC", "POL", "2024-09-04", 1, RENAMED),
        ("FTM", "S", "2025-01-16", 1, RENAMED),
        ("EOS", "A", "2025-05-14", 1, RENAMED),
        ("AGIX", "FET", "2024-07-01", 0.43335, MERGED),
        ("OCEAN", "FET", "2024-07-01", 0.433226, MERGED),
    ],
)
def test_renamed_and_merged_coins_lead_to_their_successor_and_say_when(old, new, day, ratio, status):
    (asset,) = SEED.by_symbol(old)
    assert (asset.status, asset.valid_to, asset.successor_ratio) == (status, ms(day), ratio)
    for word in (old, old.lower(), asset.coin_id, asset.coin_id.upper()):
        resolution = SEED.resolve(word)
        assert resolution.asset.symbol == new
        assert day in resolution.note
        assert f"1 {old} = {ratio:g} {new}" in resolution.note
    before = SEED.resolve(old, ms(day) - 1)
    assert (before.asset, before.note) == (asset, None)
    assert SEED.resolve(old, ms(day)).asset.symbol == new


def test_coin_that_ended_without_a_successor_is_itself_and_says_so():
    resolution = SEED.resolve("busd")
    assert resolution.asset.coin_id == "binance-usd"
    assert resolution.note == "BUSD is inactive since 2023-12-15 and has no successor"
    assert SEED.resolve("busd", ms("2023-01-01")).note is None


def test_successor_in_the_time_before_it_was_born_is_its_predecessor():
    resolution = SEED.resolve("POL", ms("2023-01-01"))
    assert resolution.asset.coin_id == "matic-network"
    assert "2024-09-04" in resolution.note
    assert SEED.resolve("POL", ms("2025-01-01")).asset.symbol == "POL"


def test_ticker_that_passed_from_one_coin_to_another():
    assert SEED.resolve("LUNA").asset.coin_id == "terra-luna-2"
    assert SEED.resolve("LUNA").note is None
    then = SEED.resolve("luna", ms("2022-01-01"))
    assert (then.asset.coin_id, then.note) == ("terra-luna", "LUNC was called LUNA then")
    assert SEED.resolve("LUNA", ms("2022-06-01")).asset.coin_id == "terra-luna-2"
    assert SEED.resolve("UST").asset.coin_id == "terrausd"
    assert SEED.resolve("RNDR").note == "RNDR is called RENDER since 2024-07-26"
    assert SEED.resolve("render", ms("2022-01-01")).asset.coin_id == "render-token"


# --- looking up ---


@pytest.mark.parametrize("word", ["BTC", "btc", "bitcoin", "Bitcoin", "BTC-USD", "btc-usd", "  btc "])
def test_ticker_coin_id_and_product_in_any_case(word):
    resolution = SEED.resolve(word)
    assert (resolution.asset.coin_id, resolution.note) == ("bitcoin", None)


def test_ambiguous_ticker_means_the_highest_market_cap_and_names_the_others():
    resolution = SEED.resolve("velo")
    assert resolution.asset.coin_id == "velo"
    assert "velodrome-finance (Velodrome Finance)" in resolution.note
    assert SEED.resolve("velodrome-finance").note is None
    assert SEED.resolve("VELO-USD").asset.coin_id == "velodrome-finance"
    small, big, unranked = (
        Asset(i, "X", f"x-{i}", f"X{i}", market_cap_rank=rank) for i, rank in ((1, 90), (2, 8), (3, None))
    )
    assert AssetRegistry([small, big, unranked]).resolve("x").asset == big
    assert AssetRegistry([unranked, small]).resolve("x").asset == small


def test_dead_coin_never_hides_a_living_one():
    dead = Asset(1, "X", "old-x", "Old X", market_cap_rank=1, status=INACTIVE, valid_to=ms("2024-01-01"))
    living = Asset(2, "X", "new-x", "New X", market_cap_rank=900)
    registry = AssetRegistry([dead, living])
    assert registry.resolve("X").asset == living
    assert registry.resolve("X").note is None
    assert registry.resolve("X", ms("2023-01-01")).asset == dead
    assert registry.resolve("old-x").asset == dead


def test_of_equally_near_matches_the_highest_market_cap_comes_first():
    assert SEED.near("BTX")[0] == "BTC"
    assert SEED.near("ETX")[0] == "ETH"


@pytest.mark.parametrize("word", ["bitcion", "BTCC", "etherium", "FOOBARBAZ", "", "x" * 5_000, "'; DROP TABLE", "\x00"])
def test_unknown_symbol_is_an_error_with_near_matches(word):
    with pytest.raises(UnknownSymbol) as caught:
        SEED.resolve(word)
    assert len(caught.value.near) <= 3
    if word in {"bitcion", "BTCC"}:
        assert caught.value.near[0] == "BTC"
    if word == "etherium":
        assert caught.value.near[0] == "ETH"


def test_succession_that_runs_in_a_circle_ends():
    a = Asset(1, "A", "a", "A", status=RENAMED, valid_to=5, successor_coin_id="b")
    b = Asset(2, "B", "b", "B", status=RENAMED, valid_to=6, successor_coin_id="a")
    assert AssetRegistry([a, b]).resolve("A").asset in {a, b}


def test_rename_of_a_rename_is_followed_to_the_end():
    chain = [
        Asset(1, "A", "a", "A", status=RENAMED, valid_to=ms("2020-01-01"), successor_coin_id="b", successor_ratio=2),
        Asset(2, "B", "b", "B", status=RENAMED, valid_to=ms("2022-01-01"), successor_coin_id="c", successor_ratio=1),
        Asset(3, "C", "c", "C"),
    ]
    resolution = AssetRegistry(chain).resolve("a")
    assert resolution.asset.symbol == "C"
    assert (
        resolution.note == "A was renamed to B on 2020-01-01 (1 A = 2 B); B was renamed to C on 2022-01-01 (1 B = 1 C)"
    )
    assert AssetRegistry(chain).resolve("a", ms("2021-01-01")).asset.symbol == "B"


def test_former_ticker_of_an_absent_coin_is_unknown():
    registry = AssetRegistry([Asset(1, "BTC", "bitcoin", "Bitcoin")], [FormerTicker("RNDR", "render-token", 5)])
    with pytest.raises(UnknownSymbol):
        registry.resolve("RNDR")


def test_active_is_ordered_by_market_cap_and_knows_the_past():
    assert [asset.symbol for asset in SEED.active()[:3]] == ["BTC", "ETH", "USDT"]
    then = {asset.symbol for asset in SEED.active(ms("2023-06-01"))}
    now = {asset.symbol for asset in SEED.active(ms("2026-01-01"))}
    assert {"MATIC", "FTM", "EOS", "AGIX", "OCEAN", "BUSD"} <= then - now
    assert {"POL", "S", "A"} <= now - then
    assert now == {asset.symbol for asset in SEED.active()}


def test_two_assets_cannot_share_an_identity():
    one = Asset(1, "X", "x", "X", "X-USD")
    for other in (Asset(1, "Y", "y", "Y"), Asset(2, "Y", "x", "Y"), Asset(2, "Y", "y", "Y", "X-USD")):
        with pytest.raises(ValueError, match="stands for"):
            AssetRegistry([one, other])


# --- replays ---


def test_replay_has_exactly_its_tickers_alive_under_their_own_names():
    symbols = ["BTC", "matic", "FTM", "EOS", "LUNA", "LUNC", "BUSD", "EUR", "GBP", "VELO"]
    registry = AssetRegistry.for_replay(symbols)
    assert sorted(asset.symbol for asset in registry) == sorted(symbol.upper() for symbol in symbols)
    for asset in registry:
        assert asset.coinbase_product == f"{asset.symbol}-USD"
        assert all(asset.alive(at_ms) for at_ms in (None, 0, 2**52))
        assert registry.resolve(asset.symbol).asset == asset
    assert registry.resolve("MATIC").asset.coin_id == "matic-network"
    assert registry.resolve("LUNA").asset.coin_id == "terra-luna-2"
    assert registry.by_symbol("MATIC")[0].asset_id == SEED.by_symbol("MATIC")[0].asset_id


def test_unknown_replay_ticker_has_an_id_of_its_own_whatever_else_is_replayed():
    alone = AssetRegistry.for_replay(["EUR"]).resolve("eur").asset
    among = AssetRegistry.for_replay(["GBP", "EUR", "BTC"]).resolve("eur").asset
    assert alone == among
    assert alone.coin_id == "replay-eur"
    assert REPLAY_IDS_FROM <= alone.asset_id < 2**31
    assert AssetRegistry.for_replay(["EUR", "GBP"]) == AssetRegistry.for_replay(["gbp", "EUR", "EUR"])


@pytest.mark.shared_data
def test_every_ticker_of_the_real_market_file_but_fiat_is_in_the_seed(shared_data):
    symbols = (
        pl.read_parquet(shared_data / "market" / "crypto_1h_2023H2.parquet", columns=["symbol"])["symbol"]
        .unique()
        .to_list()
    )
    assert len(symbols) == 74
    registry = AssetRegistry.for_replay(symbols)
    assert {asset.symbol for asset in registry if asset.asset_id >= REPLAY_IDS_FROM} == {"EUR", "GBP"}


@pytest.mark.shared_data
def test_seed_agrees_with_recorded_answers_of_the_upstreams(shared_data):
    """ids and tickers against CoinGecko of 2022 (tickers that changed since are in former_tickers.csv), products of 2021."""
    import json

    listed = {}
    for file in (shared_data / "recorded" / "coingecko").glob("*markets*.json"):
        listed |= {item["id"]: item["symbol"].upper() for item in json.loads(file.read_text())}
    known = [asset for asset in SEED if asset.coin_id in listed]
    assert len(known) >= 160
    differing = {(asset.coin_id, listed[asset.coin_id]) for asset in known if listed[asset.coin_id] != asset.symbol}
    assert differing <= {(f.coin_id, f.symbol) for f in SEED.former} | {("iota", "MIOTA")}
    products = {p["id"] for p in json.loads((shared_data / "recorded" / "coinbase" / "products.json").read_text())}
    assert len({asset.coinbase_product for asset in SEED} & products) >= 95
