"""Terms: every account has them, a copyrighted series of FRED has its owner's, and nothing is taken for allowed."""

from __future__ import annotations

from typing import get_args

import pytest

from ray_app.sources import ENDPOINTS
from ray_app.sources.terms import RESTRICTED_SERIES, TERMS, UNKNOWN, Redistribution, account_of, terms_of


def test_terms_are_said_in_full() -> None:
    for account, terms in TERMS.items():
        assert terms.licence, account
        assert terms.attribution, account
        assert terms.redistribution in get_args(Redistribution), account
        assert terms.url.startswith("https://") or account == "rss", account
        assert terms.retention_h is None or terms.retention_h > 0, account


def test_every_endpoint_has_terms() -> None:
    for name, endpoint in ENDPOINTS.items():
        assert terms_of(name) is TERMS[endpoint.account], name
    assert account_of("coinbase.exchange_rates") == "coinbase-v2"
    assert account_of("fred.observations") == "fred"


@pytest.mark.parametrize(
    ("account", "allowed"),
    [("yahoo", "forbidden"), ("reddit", "forbidden"), ("x", "forbidden"), ("coinmetrics", "non-commercial")],
)
def test_what_must_not_be_passed_on(account: str, allowed: str) -> None:
    assert terms_of(f"{account}.anything").redistribution == allowed


def test_a_series_of_another_owner_is_its_owners() -> None:
    for series, owner in RESTRICTED_SERIES.items():
        terms = terms_of("fred.observations", series)
        assert terms.redistribution == "forbidden"
        assert owner in terms.licence
        assert TERMS["fred"].attribution in terms.attribution
    assert terms_of("fred.observations", "UNRATE") is TERMS["fred"]
    assert terms_of("mempool.hashrate", "SP500") is TERMS["mempool"]  # only FRED's series have owners of their own


def test_of_what_nobody_looked_up_nothing_is_claimed() -> None:
    assert terms_of("nobody.knows") is UNKNOWN
    assert UNKNOWN.redistribution == "unknown"
