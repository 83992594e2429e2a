from __future__ import annotations

import json
from datetime import datetime

import pytest

from ray_app.clock import to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange, endpoint_for_url
from ray_app.sources.addressing import request_of_url
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_social import search, tweet

x = ENDPOINTS["x.recent_search"]
ID = "2056339471364567040"
PROBLEM = "https://api.twitter.com/2/problems/"


def one(body=None, **changes):
    parsed = x.parse(answer("x.recent_search", body or search(tweet("9000000000000000000"), tweet(**changes))))
    return [row for row in parsed.rows if row.key["content_id"] == f"x:{ID}"], parsed.issues


def test_every_column_of_a_post():
    (row,), issues = one()
    assert issues == ()
    assert (row.table, row.event_version) == ("social_posts", FETCHED_AT)
    assert row.values == {
        "source": "x.recent_search",
        "platform": "x",
        "community": None,
        "author": "TwitterDev",
        "author_verified": 1,
        "title": None,
        "text": "$BTC & $ETH > all",
        "url": f"https://x.com/TwitterDev/status/{ID}",
        "language": "en",
        "published_at": NOON - 60_000,
        "known_at": FETCHED_AT,
        "score": 25,
        "upvote_ratio": None,
        "comments": 4,
        "reposts": 5,
        "views": 9_001,
        "deleted_at": None,
    }


def test_author_that_was_not_joined_is_not_known():
    (row,), issues = one(author_id="7")
    assert issues == ()
    assert (row.values["author"], row.values["author_verified"]) == (None, None)
    assert row.values["url"] == f"https://x.com/i/status/{ID}"
    assert len(one(search(tweet(), includes=...) | {"includes": {}})[0]) == 1


@pytest.mark.parametrize(
    ("changes", "column", "kept", "issues"),
    [
        ({"lang": "und"}, "language", None, 0),
        ({"lang": "zh-tw"}, "language", "zh-tw", 0),
        ({"lang": 1}, "language", None, 1),
        ({"text": None}, "text", None, 0),
        ({"text": 5}, "text", None, 1),
        ({"public_metrics": ...}, "score", None, 0),
        ({"public_metrics": [1]}, "score", None, 1),
        ({"public_metrics": {"retweet_count": 3}}, "reposts", None, 0),
        ({"public_metrics": {"like_count": "x"}}, "score", None, 1),
        ({"public_metrics": {"impression_count": 5_000_000_000}}, "views", 5_000_000_000, 0),
    ],
)
def test_odd_value_costs_only_itself(changes, column, kept, issues):
    (row,), found = one(**changes)
    assert row.values[column] == kept
    assert len(found) == issues
    assert row.values["published_at"] == NOON - 60_000


@pytest.mark.parametrize(
    ("username", "verified", "issues"),
    [("a/../b", True, 1), ("ok_1", "yes", 1), (None, None, 0), ("ok_1", False, 0)],
)
def test_user_is_read_with_care(username, verified, issues):
    users = [{"id": "2244994945", "username": username, "verified": verified}]
    (row,), found = one(search(tweet(), includes={"users": users}))
    assert row.values["url"] == f"https://x.com/{'ok_1' if username == 'ok_1' else 'i'}/status/{ID}"
    assert row.values["author_verified"] == (None if verified in {None, "yes"} else int(verified))
    assert len(found) == issues


def test_time_comes_from_the_id_where_it_is_not_stated():
    (row,) = x.parse(answer("x.recent_search", search(tweet("1578523114753118208", created_at=...)))).rows
    assert row.values["published_at"] == 1665184212755
    parsed = x.parse(answer("x.recent_search", search(tweet("20", created_at=...), tweet())))
    assert [row.key["content_id"] for row in parsed.rows] == [f"x:{ID}"]
    assert [issue.field for issue in parsed.issues] == ["created_at"]


@pytest.mark.parametrize(
    "made", ["yesterday", "2026-05-18T11:59:00", "2026-05-18T13:00:00Z", 1, "1999-01-01T00:00:00Z"]
)
def test_post_without_a_time_that_can_be_is_left_out(made):
    rows, issues = one(created_at=made)
    assert rows == []
    assert len(issues) == 1


def test_ids_are_text_and_nothing_else():
    parsed = x.parse(answer("x.recent_search", search(tweet(), tweet(2056339471364567041), tweet("1e9"), tweet("-1"))))
    assert [row.key["content_id"] for row in parsed.rows] == [f"x:{ID}"]
    assert len(parsed.issues) == 3


def test_no_result_is_no_row_and_no_error():
    parsed = x.parse(answer("x.recent_search", {"meta": {"result_count": 0}}))
    assert (parsed.rows, parsed.issues, parsed.next, parsed.oldest) == ((), (), None, None)
    for body in ({"meta": {"result_count": 3}}, {"meta": {}}, {"data": {}, "meta": {"result_count": 1}}, {}):
        with pytest.raises(MalformedPayload):
            x.parse(answer("x.recent_search", body))


def test_pages_follow_each_other_to_the_end():
    parsed = x.parse(answer("x.recent_search"))
    assert parsed.oldest == NOON - 60_000
    assert parsed.next.params == {
        **x.request("($BTC OR $ETH) -is:retweet lang:en").params,
        "next_token": "b26v89c19zqg8o3fn0m2",
    }
    assert x.parse(answer("x.recent_search", search(tweet(), token=None))).next is None
    again = x.parse(answer("x.recent_search", request=parsed.next))
    assert again.next is None
    assert [issue.field for issue in again.issues] == ["next_token"]


def test_errors_beside_data_are_issues_and_alone_a_refusal():
    error = {
        "value": "7",
        "detail": "Could not find user with author_id: [7].",
        "title": "Not Found Error",
        "resource_type": "user",
        "resource_id": "7",
        "type": f"{PROBLEM}resource-not-found",
    }
    parsed = x.parse(answer("x.recent_search", search(tweet(), errors=[error])))
    assert len(parsed.rows) == 1
    assert [(issue.kind, issue.subject) for issue in parsed.issues] == [("missing_id", "7")]
    assert "Could not find user" in parsed.issues[0].detail
    for body in ({"errors": [error]}, {"errors": [error], "meta": {"result_count": 0}}):
        with pytest.raises(UpstreamRejected, match="Not Found Error: Could not find user"):
            x.parse(answer("x.recent_search", body))


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (429, {"title": "Too Many Requests", "detail": "Too Many Requests", "type": "about:blank", "status": 429}, RateLimited, "HTTP 429: Too Many Requests"),
        (429, {"title": "UsageCapExceeded", "detail": "Usage cap exceeded: Monthly product cap", "period": "Monthly"}, RateLimited, "Monthly product cap"),
        (200, {"title": "Too Many Requests", "status": 429}, RateLimited, "HTTP 429"),
        (200, {"errors": [{"title": "Too Many Requests", "status": 429}]}, RateLimited, "Too Many Requests"),
        (200, {"errors": [{"message": "Rate limit exceeded", "code": 88}]}, RateLimited, "Rate limit exceeded"),
        (200, {"errors": [{"title": "Service Unavailable", "status": 503}]}, UpstreamUnavailable, "Service Unavailable"),
        (200, {"errors": [{"title": "Forbidden", "status": 403}]}, UpstreamRejected, "Forbidden"),
        (200, {"errors": ["odd"]}, UpstreamRejected, "unnamed error"),
        (503, {"title": "Service Unavailable", "detail": "Service Unavailable", "status": 503}, UpstreamUnavailable, "503"),
        (403, {"client_id": "1", "detail": "must use keys from a Project", "title": "Client Forbidden", "reason": "client-not-enrolled"}, UpstreamRejected, "Client Forbidden: must use"),
        (401, {"title": "Unauthorized", "type": "about:blank", "status": 401, "detail": "Unauthorized"}, UpstreamRejected, "Unauthorized"),
        (400, {"errors": [{"parameters": {"query": ["$"]}, "message": "Invalid operator $"}], "title": "Invalid Request", "detail": "One or more parameters was invalid.", "type": f"{PROBLEM}invalid-request"}, UpstreamRejected, "Invalid operator"),
        (503, b"Service Unavailable", UpstreamUnavailable, "Service"),
    ],
)  # fmt: skip
def test_refusals(status, body, error, words):
    headers = {"x-rate-limit-reset": str(FETCHED_AT // 1_000 + 61)}
    with pytest.raises(error, match=words) as caught:
        x.parse(answer("x.recent_search", body, status=status, headers=headers))
    if error is RateLimited:
        assert 60 <= caught.value.retry_after_s <= 61


def test_a_call_costs_what_it_may_return_and_asks_from_a_whole_second():
    request = x.request("$BTC", NOON + 999)
    assert x.cost == int(request.params["max_results"])
    assert request.params["start_time"] == "2026-05-18T12:00:00Z"
    for query in ("", "x" * 513):
        with pytest.raises(ValueError, match="512"):
            x.request(query)


@pytest.mark.shared_data
def test_recorded_searches_keep_every_post(shared_data):
    from email.utils import parsedate_to_datetime

    seen = 0
    for line in (shared_data / "recorded" / "MANIFEST.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["api"] != "twitter_v2" or endpoint_for_url(entry["url"]) is not x:
            continue
        body = (shared_data / "recorded" / entry["file"]).read_bytes()
        fetched_at = to_ms(parsedate_to_datetime(entry["headers"]["date"]))
        parsed = x.parse(Exchange(request_of_url(x, entry["url"]), 200, entry["headers"], body, fetched_at))
        assert parsed.issues == ()
        raw = {item["id"]: item for item in json.loads(body)["data"]}
        assert [row.key["content_id"] for row in parsed.rows] == [f"x:{name}" for name in raw]
        assert parsed.next.params["next_token"] == json.loads(body)["meta"]["next_token"]
        for row, item in zip(parsed.rows, raw.values(), strict=True):
            assert row.values["author"] is None
            assert row.values["published_at"] <= fetched_at
            if item["text"].endswith(" tweepy") and item["text"].startswith("20"):
                stated = to_ms(datetime.fromisoformat(item["text"][:26] + "+00:00"))
                assert 0 <= row.values["published_at"] - stated < 2_000, "the id holds the time of the post"
                seen += 1
    assert seen >= 8
