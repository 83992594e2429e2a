from __future__ import annotations

import random

import pytest

from ray_app.assets import ACTIVE, INACTIVE, Asset, AssetRegistry
from ray_app.reconcile import reconcile, with_ranks
from ray_app.sources.base import Row

NOW = 1_779_105_600_000
SEED = AssetRegistry.seed()


def listed(registry, *, without=(), **extra):
    """What coingecko.coins_list would parse to: every coin of the registry but some, and ``coin_id=(ticker, name)``."""
    coins = {a.coin_id: (a.symbol, a.name) for a in registry if a.coin_id not in without}
    coins |= {name.replace("_", "-"): said for name, said in extra.items()}
    return [Row("crypto_assets", {"coin_id": c}, {"symbol": s, "name": n}, NOW) for c, (s, n) in coins.items()]


def trading(registry, *, without=(), extra=()):
    """What coinbase.products would parse to."""
    products = [
        a.coinbase_product for a in registry if a.coinbase_product is not None and a.coinbase_product not in without
    ]
    return [
        Row("crypto_assets", {"coinbase_product": p}, {"symbol": p.removesuffix("-USD")}, NOW)
        for p in (*products, *extra)
    ]


def kinds(changes):
    return [(change.kind, change.subject) for change in changes]


def test_lists_that_agree_change_nothing():
    registry, changes = reconcile(SEED, listed(SEED), trading(SEED), NOW)
    assert registry == SEED
    assert changes == ()
    assert reconcile(SEED, None, None, NOW) == (SEED, ())


def test_vanished_coin_becomes_inactive_and_returns():
    registry, changes = reconcile(SEED, listed(SEED, without={"iexec-rlc"}), None, NOW)
    gone = registry.by_coin_id("iexec-rlc")
    assert (gone.status, gone.valid_to, gone.coinbase_product) == (INACTIVE, NOW, None)
    assert kinds(changes) == [("vanished", "iexec-rlc")]
    again, changes = reconcile(registry, listed(SEED), trading(SEED), NOW + 1)
    assert again == SEED
    assert kinds(changes) == [("returned", "iexec-rlc"), ("venue_gained", "iexec-rlc")]


def test_what_the_packaged_list_declares_ended_stays_ended_though_it_is_listed():
    registry, changes = reconcile(SEED, listed(SEED), trading(SEED, extra=["EOS-USD", "BUSD-USD"]), NOW)
    assert registry == SEED
    assert kinds(changes) == [("unresolved", "BUSD-USD"), ("unresolved", "EOS-USD")]


def test_ticker_and_name_follow_coingecko():
    rows = listed(SEED, render_token=("RNDR2", "Render Two"), bitcoin=(None, None))
    registry, changes = reconcile(SEED, rows, None, NOW)
    render = registry.by_coin_id("render-token")
    assert (render.symbol, render.name) == ("RNDR2", "Render Two")
    assert registry.by_coin_id("bitcoin") == SEED.by_coin_id("bitcoin")
    assert kinds(changes) == [("symbol", "render-token"), ("name", "render-token")]


def test_product_that_no_longer_trades_is_taken_away_and_given_back():
    registry, changes = reconcile(SEED, None, trading(SEED, without={"RLC-USD"}), NOW)
    assert registry.by_coin_id("iexec-rlc").coinbase_product is None
    assert registry.by_coin_id("iexec-rlc").status == ACTIVE
    assert kinds(changes) == [("venue_lost", "iexec-rlc")]
    again, changes = reconcile(registry, None, trading(SEED), NOW)
    assert again == SEED
    assert kinds(changes) == [("venue_gained", "iexec-rlc")]


def test_product_whose_ticker_one_coin_alone_has_finds_its_asset():
    hype = SEED.by_symbol("HYPE")[0]
    assert hype.coinbase_product is None
    registry, changes = reconcile(SEED, listed(SEED), trading(SEED, extra=["HYPE-USD"]), NOW)
    assert registry.by_product("HYPE-USD").coin_id == "hyperliquid"
    assert kinds(changes) == [("venue_gained", "hyperliquid")]


def test_product_whose_ticker_is_not_unique_is_not_guessed():
    rows = listed(SEED, hype_impostor=("HYPE", "Hype!"))
    registry, changes = reconcile(SEED, rows, trading(SEED, extra=["HYPE-USD"]), NOW)
    assert registry == SEED
    assert kinds(changes) == [("unresolved", "HYPE-USD")]
    assert "2 coins" in changes[0].detail
    assert reconcile(SEED, None, trading(SEED, extra=["HYPE-USD"]), NOW)[0] == SEED  # no list, no certainty


def test_new_coin_with_a_product_is_added_with_the_next_id():
    rows = listed(SEED, brand_new=("NEWC", "Brand New"), other_new=("ANEW", "Other New"))
    registry, changes = reconcile(SEED, rows, trading(SEED, extra=["NEWC-USD", "ANEW-USD"]), NOW)
    ids = sorted(asset.asset_id for asset in SEED)
    assert registry.by_coin_id("other-new") == Asset(ids[-1] + 1, "ANEW", "other-new", "Other New", "ANEW-USD")
    assert registry.by_coin_id("brand-new").asset_id == ids[-1] + 2
    assert kinds(changes) == [("added", "other-new"), ("added", "brand-new")]
    assert reconcile(registry, rows, trading(SEED, extra=["NEWC-USD", "ANEW-USD"]), NOW) == (registry, ())


def test_new_coin_never_gets_an_id_of_the_replay_range():
    replay = AssetRegistry.for_replay(["BTC", "EUR"])
    rows = listed(replay, brand_new=("NEWC", "Brand New"))
    registry, _ = reconcile(replay, rows, trading(replay, extra=["NEWC-USD"]), NOW)
    assert registry.by_coin_id("brand-new").asset_id == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.85])
def test_cut_off_coins_list_changes_nothing_and_says_why(share):
    rows = listed(SEED)[: int(share * len(SEED))]
    registry, changes = reconcile(SEED, rows, trading(SEED), NOW)
    assert registry == SEED
    assert kinds(changes) == [("refused", "coingecko.coins_list")]
    assert "broken list" in changes[0].detail


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cut_off_product_list_changes_nothing_but_the_coins_still_count(share):
    products = trading(SEED)[: int(share * len(trading(SEED)))]
    registry, changes = reconcile(SEED, listed(SEED, without={"iexec-rlc"}), products, NOW)
    assert kinds(changes) == [("refused", "coinbase.products"), ("vanished", "iexec-rlc")]
    assert registry.by_coin_id("bitcoin").coinbase_product == "BTC-USD"


def test_refused_coins_list_adds_nothing_either():
    rows = listed(AssetRegistry([]), brand_new=("NEWC", "Brand New"))
    registry, changes = reconcile(SEED, rows, trading(SEED, extra=["NEWC-USD"]), NOW)
    assert registry == SEED
    assert kinds(changes) == [("refused", "coingecko.coins_list"), ("unresolved", "NEWC-USD")]


def test_order_of_the_lists_does_not_matter():
    coins = listed(SEED, without={"iexec-rlc"}, brand_new=("NEWC", "N"), other_new=("ANEW", "O"))
    products = trading(SEED, without={"BTC-USD"}, extra=["NEWC-USD", "ANEW-USD"])
    expected = reconcile(SEED, coins, products, NOW)
    for seed in range(5):
        shuffled = random.Random(seed)
        mixed_coins, mixed_products = coins.copy(), products.copy()
        shuffled.shuffle(mixed_coins)
        shuffled.shuffle(mixed_products)
        assert reconcile(SEED, mixed_coins, mixed_products, NOW) == expected


def test_ranks_follow_markets_and_silence_changes_none():
    registry = with_ranks(SEED, {"ethereum": 1, "bitcoin": 2, "tether": None, "nonesuch": 5})
    assert [asset.symbol for asset in registry.active()[:3]] == ["ETH", "BTC", "USDT"]
    assert with_ranks(SEED, {"bitcoin": 1}) == SEED
