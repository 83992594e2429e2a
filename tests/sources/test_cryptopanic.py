"""CryptoPanic: both versions, pages without the key, refusals."""

from __future__ import annotations

import copy
import json

import pytest

from ray_app.clock import HOUR_MS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS, endpoint_for_url
from ray_app.sources.addressing import request_of_params, request_of_url
from ray_app.sources.texts import content_id
from tests.sources.samples import BODIES, FETCHED_AT, NOON, answer

posts = ENDPOINTS["cryptopanic.posts"]
FIRST = BODIES["cryptopanic.posts"]["results"][0]


def body(*results, **changes):
    return copy.deepcopy(BODIES["cryptopanic.posts"]) | {"results": list(results)} | changes


def test_every_field():
    parsed = posts.parse(answer("cryptopanic.posts"))
    first, second = parsed.rows
    assert first.table == "crypto_news"
    assert first.key == {"content_id": content_id("https://example.com/bitcoin-slips")}
    assert {k: v for k, v in first.values.items() if k != "story_id"} == {
        "source": "cryptopanic.posts",
        "feed": "example.com",
        "url": "https://example.com/bitcoin-slips",
        "title": "Bitcoin slips",
        "summary": "The largest coin lost 2 %.",
        "author": None,
        "category": "BTC,ETH",
        "language": "en",
        "published_at": NOON - 2_386_000,
        "known_at": FETCHED_AT,
        "deleted_at": None,
    }
    assert second.key == {"content_id": content_id("cryptopanic:20750356")}
    assert (second.values["url"], second.values["feed"]) == ("https://cryptopanic.com", "cryptopanic")
    assert parsed.oldest == NOON - HOUR_MS


def test_post_of_version_1():
    post = {name: value for name, value in FIRST.items() if name not in {"original_url", "description", "instruments"}}
    (row,) = posts.parse(answer("cryptopanic.posts", body(post | {"currencies": [{"code": "EPS"}]}))).rows
    assert row.values["url"] == "https://cryptopanic.com/news/20750357/Bitcoin-slips"
    assert (row.values["category"], row.values["summary"]) == ("EPS", None)


def test_next_page_is_asked_for_by_number_and_never_with_the_key():
    parsed = posts.parse(answer("cryptopanic.posts", request=posts.request(3, "BTC,ETH")))
    assert parsed.next is not None
    assert parsed.next.params == {
        "public": "true",
        "kind": "news",
        "regions": "en",
        "page": "4",
        "currencies": "BTC,ETH",
    }
    assert "the-key" not in json.dumps([parsed.next.path, dict(parsed.next.params), dict(parsed.next.context)])
    assert posts.parse(answer("cryptopanic.posts", body(FIRST, next=None))).next is None
    assert posts.parse(answer("cryptopanic.posts", request=posts.request(100))).next is None
    assert posts.parse(answer("cryptopanic.posts", params={"page": "x"})).next is None


@pytest.mark.parametrize(
    "url",
    [
        "https://cryptopanic.com/api/v1/posts/?auth_token=secret&public=true&page=2",
        "https://cryptopanic.com/api/free/v1/posts/?auth_token=secret&public=true&page=2",
        "https://cryptopanic.com/api/developer/v2/posts/?auth_token=secret&public=true&page=2",
    ],
)
def test_recorded_urls_lead_here_without_their_key(url):
    assert endpoint_for_url(url) is posts
    assert request_of_url(posts, url).params == {"public": "true", "page": "2"}
    assert request_of_params(posts, {}).path == posts.request().path


@pytest.mark.parametrize(
    ("status", "refusal", "error"),
    [
        (403, {"status": "api_error", "info": "API monthly quota exceeded"}, RateLimited),
        (429, {"status": "api_error", "info": "Rate limit exceeded"}, RateLimited),
        (401, {"status": "Incomplete", "info": "Token not found"}, UpstreamRejected),
        (403, {"status": "api_error", "info": "not in your plan"}, UpstreamRejected),
        (404, {"detail": "Invalid page."}, UpstreamRejected),
        (200, {"status": "api_error", "info": "Token not found"}, UpstreamRejected),
        (200, {"status": "Incomplete", "info": "Rate limit exceeded"}, RateLimited),
        (200, {"status": "Incomplete", "info": "Token not found"}, UpstreamRejected),
        (200, {"results": {}}, MalformedPayload),
        (200, {"results": [1, "post"]}, MalformedPayload),
    ],
)
def test_refusals(status, refusal, error):
    with pytest.raises(error):
        posts.parse(answer("cryptopanic.posts", refusal, status=status))


def test_bad_values_cost_themselves_or_their_row():
    results = [
        FIRST | {"original_url": "javascript:x", "url": 7, "id": True, "title": "One"},
        FIRST | {"original_url": "https://e.com/2", "published_at": "2026-06-18T11:20:14Z", "id": 2},
        FIRST | {"original_url": "https://e.com/3", "title": "", "id": 3},
        FIRST | {"original_url": "https://e.com/4", "instruments": [None, {"code": 5}], "source": [], "domain": None},
        None,
    ]
    parsed = posts.parse(answer("cryptopanic.posts", body(*results)))
    assert [row.values["title"] for row in parsed.rows] == ["One", "Bitcoin slips", "Bitcoin slips"]
    assert [row.values["published_at"] for row in parsed.rows[1:2]] == [None]
    assert (parsed.rows[2].values["category"], parsed.rows[2].values["feed"]) == (None, "cryptopanic")
    assert [(issue.subject, issue.field) for issue in parsed.issues] == [
        ("2", "published_at"), ("item 2", "title"), ("item 4", "post"),
    ]  # fmt: skip


def test_same_post_twice():
    assert len(posts.parse(answer("cryptopanic.posts", body(FIRST, FIRST))).rows) == 1
    parsed = posts.parse(answer("cryptopanic.posts", body(FIRST, FIRST | {"title": "Other"})))
    assert (parsed.rows, [issue.kind for issue in parsed.issues]) == ((), ["duplicate"])
    votes = posts.parse(answer("cryptopanic.posts", body(FIRST, FIRST | {"votes": {"positive": 9}})))
    assert len(votes.rows) == 1  # votes are not stored
