from __future__ import annotations

import json

import pytest

from ray_app.clock import HOUR_MS, to_ms
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected, UpstreamUnavailable
from ray_app.sources import ENDPOINTS, Exchange, Request, endpoint_for_url
from ray_app.sources.addressing import request_of_params, request_of_url
from ray_app.sources.posts import LONGEST
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_social import listing, post

new, by_id = ENDPOINTS["reddit.listing"], ENDPOINTS["reddit.by_id"]


def read(*children, name="reddit.listing", **options):
    return ENDPOINTS[name].parse(answer(name, listing(*children), **options))


def one(**changes):
    parsed = read(post("t3_zz"), post(**changes))
    return [row for row in parsed.rows if row.key["content_id"] == "reddit:t3_1abcde"], parsed.issues


def test_every_column_of_a_post():
    (row,), issues = one()
    assert issues == ()
    assert (row.table, row.key, row.event_version) == ("social_posts", {"content_id": "reddit:t3_1abcde"}, FETCHED_AT)
    assert row.values == {
        "source": "reddit.listing",
        "platform": "reddit",
        "community": "Bitcoin",
        "author": "satoshi_fan",
        "author_verified": None,
        "title": "Fees & where they go",
        "text": "A fee < 1 sat? Yes.",
        "url": "https://www.reddit.com/r/Bitcoin/comments/1abcde/fees_where_they_go/",
        "language": None,
        "published_at": NOON - HOUR_MS,
        "known_at": FETCHED_AT,
        "score": 41,
        "upvote_ratio": 0.93,
        "comments": 12,
        "reposts": None,
        "views": None,
        "deleted_at": None,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"removed_by_category": "moderator"},
        {"removed_by_category": "deleted"},
        {"author": "[deleted]"},
        {"selftext": "[removed]"},
        {"selftext": "[deleted]"},
        {"title": "[deleted by user]"},
        {"removed_by_category": "deleted", "over_18": True},
    ],
)
def test_deletion_takes_all_that_the_post_said(changes):
    (row,), issues = one(**changes)
    assert issues == ()
    assert row.values["deleted_at"] == FETCHED_AT
    assert [row.values[name] for name in ("author", "title", "text", "url")] == [None] * 4
    assert (row.values["community"], row.values["score"], row.values["published_at"]) == ("Bitcoin", 41, NOON - HOUR_MS)


def test_adult_posts_yield_no_row_and_no_issue():
    assert one(over_18=True) == ([], ())
    assert len(one(over_18=...)[0]) == len(one(over_18=None)[0]) == 1


@pytest.mark.parametrize("changes", [{"over_18": "yes"}, {"removed_by_category": 1}])
def test_post_of_which_it_is_not_clear_whether_to_keep_it_is_left_out(changes):
    rows, issues = one(**changes)
    assert rows == []
    assert [issue.field for issue in issues] == list(changes)


def test_comments_and_subreddits_are_read_and_yield_nothing():
    others = [
        {"kind": "t1", "data": {"name": "t1_x", "body": "hi", "created_utc": NOON / 1_000 - 9_000}},
        {"kind": "t5", "data": {"display_name": "Bitcoin"}},
    ]
    parsed = read(*others)
    assert (parsed.rows, parsed.issues) == ((), ())
    assert parsed.oldest == NOON - 9_000_000
    with pytest.raises(MalformedPayload):
        read({"kind": "t99", "data": {}}, {"kind": None, "data": {}}, 7)


@pytest.mark.parametrize(
    ("changes", "column", "kept"),
    [
        ({"score": -12}, "score", -12),
        ({"score": "many"}, "score", None),
        ({"upvote_ratio": 1.2}, "upvote_ratio", None),
        ({"upvote_ratio": ...}, "upvote_ratio", None),
        ({"num_comments": -1}, "comments", None),
        ({"selftext": ""}, "text", None),
        ({"selftext": "  \n "}, "text", None),
        ({"selftext": "a\x00b\ud800c"}, "text", "abc"),
        ({"selftext": "🟠" * 50_000}, "text", "🟠" * LONGEST),
        ({"selftext": ["x"]}, "text", None),
        ({"author": 7}, "author", None),
        ({"permalink": "http://evil.example/"}, "url", None),
        ({"permalink": None}, "url", None),
    ],
)
def test_odd_value_costs_only_itself(changes, column, kept):
    (row,), _ = one(**changes)
    assert row.values[column] == kept
    assert row.values["title"] == "Fees & where they go"


@pytest.mark.parametrize("made", [None, ..., "soon", NOON, NOON / 1_000 + 3_600, True])
def test_post_without_a_time_that_can_be_is_left_out(made):
    rows, issues = one(created_utc=made)
    assert rows == []
    assert [issue.field for issue in issues] == ["created_utc"]


def test_post_twice_alike_is_one_and_twice_differently_none():
    assert len(read(post(), post()).rows) == 1
    parsed = read(post(), post(score=42), post("t3_zz"))
    assert [row.key["content_id"] for row in parsed.rows] == ["reddit:t3_zz"]
    assert [issue.kind for issue in parsed.issues] == ["duplicate"]


def test_posts_of_another_subreddit_are_not_what_was_asked_for():
    parsed = read(post(), post("t3_zz", subreddit="cats"), post("t3_zy", subreddit="bitcoin"))
    assert [row.key["content_id"] for row in parsed.rows] == ["reddit:t3_1abcde", "reddit:t3_zy"]
    assert [(issue.kind, issue.subject) for issue in parsed.issues] == [("inconsistent", "t3_zz")]
    with pytest.raises(MalformedPayload, match="of Bitcoin"):
        read(post(subreddit="cats"))
    several = Request("reddit.listing", "/r/Bitcoin+cats/new", {"raw_json": "1"})
    assert len(read(post(), post("t3_zz", subreddit="cats"), request=several).rows) == 2


def test_texts_are_unescaped_only_where_they_come_escaped():
    plain = Request("reddit.listing", "/r/Bitcoin/new", {})
    (row,) = read(post(title="a &amp;amp; b"), request=plain).rows
    assert row.values["title"] == "a &amp; b"
    assert one(title="a &amp; b")[0][0].values["title"] == "a &amp; b"


def test_pages_follow_each_other_to_the_end():
    first = new.request("Bitcoin")
    parsed = read(post(), post("t3_zz", created_utc=NOON / 1_000 - 99_000), request=first)
    assert parsed.oldest == NOON - 99_000_000
    assert parsed.next == Request(first.endpoint, first.path, {**first.params, "after": "t3_1abcdf", "count": "2"})
    second = new.parse(answer("reddit.listing", listing(post(), after="t3_other"), request=parsed.next)).next
    assert (second.params["after"], second.params["count"]) == ("t3_other", "3")
    again = new.parse(answer("reddit.listing", listing(post()), request=parsed.next))
    assert again.next is None, "a cursor that leads back to the same page"
    assert [issue.field for issue in again.issues] == ["after"]
    for end in (listing(post(), after=None), listing()):
        assert new.parse(answer("reddit.listing", end)).next is None
    assert new.parse(answer("reddit.listing", listing())).oldest is None


def test_pinned_posts_do_not_tell_how_far_back_a_page_reaches():
    pinned = post("t3_zz", stickied=True, created_utc=NOON / 1_000 - 9e6)
    assert read(post(), pinned).oldest == NOON - HOUR_MS


def test_second_look_names_what_is_missing_and_withdraws_what_was_deleted():
    request = by_id.request(["t3_1abcde", "t3_gone", "t3_1abcdf"])
    assert (request.path, request.params) == ("/api/info", {"id": "t3_1abcde,t3_gone,t3_1abcdf", "raw_json": "1"})
    body = listing(post(author="[deleted]"), post("t3_1abcdf", subreddit="cats"), post("t3_other"), after=None)
    parsed = by_id.parse(answer("reddit.by_id", body, request=request))
    assert parsed.missing == ("t3_gone",)
    assert [(row.key["content_id"], row.values["deleted_at"]) for row in parsed.rows] == [
        ("reddit:t3_1abcde", FETCHED_AT),
        ("reddit:t3_1abcdf", None),
    ]
    assert [(issue.kind, issue.subject) for issue in parsed.issues] == [("unknown_id", "t3_other")]
    for names in ([], ["t3_a"] * 101, ["t1_a"], ["t3_a,t3_b"]):
        with pytest.raises(ValueError, match="names"):
            by_id.request(names)


def test_stored_post_that_was_marked_adult_since_is_withdrawn_and_not_missing():
    parsed = read(post(over_18=True), post("t3_1abcdf"), name="reddit.by_id")
    assert (parsed.missing, parsed.issues) == ((), ())
    marked, other = parsed.rows
    assert marked.values["deleted_at"] == FETCHED_AT
    assert [marked.values[name] for name in ("author", "title", "text", "url")] == [None] * 4
    assert (other.values["deleted_at"], other.values["author"]) == (None, "satoshi_fan")


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (429, {"message": "Too Many Requests", "error": 429}, RateLimited, "Too Many Requests"),
        (200, {"message": "Too Many Requests", "error": 429}, RateLimited, "Too Many Requests"),
        (200, {"message": "Internal Server Error", "error": 500}, UpstreamUnavailable, "Internal"),
        (403, {"reason": "private", "message": "Forbidden", "error": 403}, UpstreamRejected, r"Forbidden \(private\)"),
        (404, {"reason": "banned", "message": "Not Found", "error": 404}, UpstreamRejected, r"Not Found \(banned\)"),
        (401, {"message": "Unauthorized", "error": 401}, UpstreamRejected, "Unauthorized"),
        (503, b"<html><title>Our CDN was unable to reach our servers</title></html>", UpstreamUnavailable, "Our CDN"),
        (403, b"<html><title>Blocked</title></html>", UpstreamRejected, "Blocked"),
    ],
)
def test_refusals(status, body, error, words):
    with pytest.raises(error, match=words):
        new.parse(answer("reddit.listing", body, status=status))


@pytest.mark.parametrize("body", [{"kind": "Listing"}, {"kind": "t5", "data": {"children": []}}, [listing(post())]])
def test_what_is_no_listing_is_refused(body):
    with pytest.raises(MalformedPayload):
        new.parse(answer("reddit.listing", body))


def test_command_line_finds_the_path_by_the_parameters_given():
    assert request_of_params(new, {"subreddit": "Bitcoin", "limit": "9"}).path == "/r/Bitcoin/new"
    assert request_of_params(new, {"username": "u", "multi": "m"}).path == "/user/u/m/m/new"
    assert request_of_params(by_id, {"names": "t3_a,t3_b"}).path == "/by_id/t3_a%2Ct3_b"


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"x-ratelimit-reset": "123"}, 123.0),
        ({"x-ratelimit-reset": "123", "retry-after": "7"}, 7.0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({}, None),
    ],
)
def test_when_a_limit_ends_a_header_of_its_own_says(headers, pause_s):
    body = {"message": "Too Many Requests", "error": 429}
    with pytest.raises(RateLimited) as caught:
        new.parse(answer("reddit.listing", body, status=429, headers=headers))
    assert caught.value.retry_after_s == pause_s


@pytest.mark.shared_data
def test_recorded_listings_keep_every_post(shared_data):
    from email.utils import parsedate_to_datetime

    posts = pages = 0
    for line in (shared_data / "recorded" / "MANIFEST.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["api"] != "reddit":
            continue
        endpoint = endpoint_for_url(entry["url"])
        assert endpoint is new, entry["url"]
        body = (shared_data / "recorded" / entry["file"]).read_bytes()
        fetched_at = to_ms(parsedate_to_datetime(entry["headers"]["date"]))
        request = request_of_url(endpoint, entry["url"])
        parsed = endpoint.parse(Exchange(request, 200, entry["headers"], body, fetched_at))
        assert parsed.issues == ()
        items = json.loads(body)["data"]
        raw = {item["data"]["name"]: item["data"] for item in items["children"] if item["kind"] == "t3"}
        rows = {row.key["content_id"].removeprefix("reddit:"): row for row in parsed.rows}
        adult = {name for name, item in raw.items() if item["over_18"]}
        gone = {name for name, row in rows.items() if row.values["deleted_at"] is not None}
        assert set(rows) - gone == set(raw) - adult - gone
        assert parsed.next.params["after"] == items["after"]
        unpinned = [round(item["created_utc"] * 1_000) for item in raw.values() if not item.get("pinned")]
        assert not unpinned or parsed.oldest <= min(unpinned)
        for name in set(rows) - gone:
            row, item = rows[name], raw[name]
            for column, member in {"author": "author", "community": "subreddit", "score": "score"}.items():
                assert row.values[column] == item[member]
            assert row.values["comments"] == item["num_comments"]
            assert row.values["upvote_ratio"] == item.get("upvote_ratio")
            assert row.values["published_at"] == round(item["created_utc"] * 1_000) <= fetched_at
            assert row.values["title"] == " ".join(item["title"].split())
            assert (row.values["text"] is None) == (not item["selftext"].strip())
            assert row.values["url"] == "https://www.reddit.com" + item["permalink"]
        posts, pages = posts + len(rows), pages + 1
    assert (pages, posts) >= (9, 200)
