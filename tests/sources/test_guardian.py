"""The Guardian: fields, pages, refusals, markets."""

from __future__ import annotations

import copy
import json

import pytest

from ray_app.clock import HOUR_MS
from ray_app.errors import MalformedPayload, RateLimited, UpstreamRejected
from ray_app.sources import ENDPOINTS, Exchange, Request, endpoint_for_url
from ray_app.sources.addressing import request_of_url
from tests.sources.samples import BODIES, FETCHED_AT, NOON, answer
from tests.sources.samples_news import ARTICLE

search, item = ENDPOINTS["guardian.search"], ENDPOINTS["guardian.item"]


def body(*results, **changes):
    whole = copy.deepcopy(BODIES["guardian.search"])
    whole["response"] |= {"results": list(results), **changes} if results or changes else {}
    return whole


def test_every_field():
    parsed = search.parse(answer("guardian.search"))
    first, second = parsed.rows
    assert first.table == "crypto_news"
    assert {k: v for k, v in first.values.items() if k != "story_id"} == {
        "source": "guardian.search",
        "feed": "technology",
        "url": "https://www.theguardian.com/technology/2026/may/18/bitcoin-slips",
        "title": "Bitcoin slips",
        "summary": "The largest coin lost 2 %",
        "author": "Jane Doe",
        "category": "Technology",
        "language": None,
        "published_at": NOON - HOUR_MS,
        "known_at": FETCHED_AT,
        "deleted_at": None,
    }
    assert first.event_version == FETCHED_AT
    assert (second.values["title"], second.values["summary"]) == ("Another article", None)
    assert (parsed.next, parsed.oldest) == (None, NOON - 2 * HOUR_MS)


def test_body_text_is_neither_asked_for_nor_stored():
    with_body = ARTICLE | {"fields": ARTICLE["fields"] | {"body": "<p>SECRET</p>", "bodyText": "SECRET"}}
    (row,) = search.parse(answer("guardian.search", body(with_body))).rows
    assert "SECRET" not in json.dumps(dict(row.values))
    assert "body" not in search.request("crypto", NOON, q="bitcoin").params["show-fields"]


def test_pages_are_followed_by_number():
    request = search.request("stock", NOON, section="business")
    parsed = search.parse(answer("guardian.search", body(ARTICLE, currentPage=1, pages=3), request=request))
    assert parsed.next is not None
    assert parsed.next.params == request.params | {"page": "2"}
    assert parsed.next.context == request.context
    last = search.parse(answer("guardian.search", body(ARTICLE, currentPage=3, pages=3), params={"page": "3"}))
    assert last.next is None
    for odd in ({"pages": None}, {"pages": "many"}, {"currentPage": None}):
        assert search.parse(answer("guardian.search", body(ARTICLE, **odd))).next is None
    with pytest.raises(MalformedPayload, match="page 2"):
        search.parse(answer("guardian.search", body(ARTICLE, currentPage=2, pages=3), request=request))


def test_no_articles_is_an_answer():
    whole = body(total=0, pages=0)
    whole["response"]["results"] = []
    assert search.parse(answer("guardian.search", whole)).rows == ()


@pytest.mark.parametrize(
    ("params", "context", "table"),
    [
        ({"section": "business"}, {}, "stock_news"),
        ({"section": "money"}, {}, "stock_news"),
        ({"section": "technology"}, {}, "stock_news"),
        ({"section": "technology"}, {"market": "crypto"}, "crypto_news"),
        ({"tag": "technology/cryptocurrencies"}, {}, "crypto_news"),
        ({"q": "bitcoin OR ethereum"}, {}, "crypto_news"),
        ({"q": "bitcoin"}, {"market": "stock"}, "stock_news"),
    ],
)
def test_market_is_the_request_s(params, context, table):
    from ray_app.sources import Request

    request = Request("guardian.search", "/search", params, context)
    assert {row.table for row in search.parse(answer("guardian.search", request=request)).rows} == {table}


def test_market_that_is_none_is_refused():
    from ray_app.sources import Request

    with pytest.raises(MalformedPayload, match="bonds"):
        search.parse(answer("guardian.search", request=Request("guardian.search", "/search", {}, {"market": "bonds"})))


@pytest.mark.parametrize(
    ("status", "refusal", "error", "why"),
    [
        (401, {"message": "Unauthorized"}, UpstreamRejected, "Unauthorized"),
        (429, {"message": "API rate limit exceeded"}, RateLimited, "rate limit"),
        (200, {"message": "API rate limit exceeded"}, RateLimited, "rate limit"),
        (400, {"response": {"status": "error", "message": "page is beyond"}}, UpstreamRejected, "beyond"),
        (200, {"response": {"status": "error", "message": "page is beyond"}}, UpstreamRejected, "beyond"),
        (404, {"response": {"status": "error", "message": "not be found"}}, UpstreamRejected, "found"),
        (200, {"response": {"status": "odd", "results": []}}, MalformedPayload, "status ok"),
        (200, {"response": {"status": "ok"}}, MalformedPayload, "results"),
    ],
)
def test_refusals(status, refusal, error, why):
    with pytest.raises(error, match=why):
        search.parse(answer("guardian.search", refusal, status=status))


def test_bad_values_cost_themselves_or_their_row():
    def changed(number, **changes):
        article = copy.deepcopy(dict(ARTICLE)) | {
            "webUrl": f"https://www.theguardian.com/{number}",
            "id": f"a/{number}",
        }
        return article | changes

    results = [
        changed(1, webPublicationDate="soon"),
        changed(2, webPublicationDate="2026-05-19T12:00:00Z"),
        changed(3, webUrl=None),
        changed(4, webTitle=None, fields={}),
        changed(5, fields={"headline": 7, "lastModified": "2027-01-01T00:00:00Z"}),
        changed(6, isExpired="true"),
        changed(7, isGone=True),
        changed(8, isGone="false"),
        "article",
    ]
    parsed = search.parse(answer("guardian.search", body(*results)))
    assert [row.values["url"][-1] for row in parsed.rows] == ["1", "2", "5", "8"]
    assert [row.values["published_at"] for row in parsed.rows[:2]] == [None, None]
    assert parsed.rows[2].values["title"] == "Bitcoin slips | Jane Doe"
    assert [(issue.subject, issue.field) for issue in parsed.issues] == [
        ("a/1", "webPublicationDate"), ("a/2", "webPublicationDate"), ("a/3", "webUrl"), ("a/4", "webTitle"),
        ("item 8", "id"),
    ]  # fmt: skip


def test_same_article_twice():
    assert len(search.parse(answer("guardian.search", body(ARTICLE, ARTICLE))).rows) == 1
    parsed = search.parse(answer("guardian.search", body(ARTICLE, ARTICLE | {"fields": {"headline": "Other"}})))
    assert parsed.rows == ()
    assert [issue.kind for issue in parsed.issues] == ["duplicate"]


def test_request_names_days_and_never_a_key():
    request = search.request("crypto", NOON, tag="technology/cryptocurrencies")
    assert request.params == {
        "tag": "technology/cryptocurrencies",
        "from-date": "2026-05-18",
        "use-date": "published",
        "order-by": "newest",
        "page": "1",
        "page-size": "200",
        "show-fields": "headline,trailText,byline,lastModified",
    }
    url = "https://content.guardianapis.com/search?q=bitcoin&api-key=secret&page=2"
    assert endpoint_for_url(url) is search
    assert request_of_url(search, url).params == {"q": "bitcoin", "page": "2"}


def test_item_has_the_slashes_of_its_id_in_it():
    url = f"https://content.guardianapis.com/{ARTICLE['id']}?api-key=secret"
    assert endpoint_for_url(url) is item
    assert request_of_url(item, url).path == item.request(ARTICLE["id"]).path
    (row,) = item.parse(answer("guardian.item")).rows
    assert (row.table, row.values["source"], row.values["title"]) == ("crypto_news", "guardian.item", "Bitcoin slips")


@pytest.mark.parametrize("kind", ["tag", "section"])
def test_item_of_a_tag_or_section_is_its_page(kind):
    page = body(ARTICLE, ARTICLE, currentPage=1, pages=9, **{kind: {"id": "technology"}})
    parsed = item.parse(answer("guardian.item", page, request=item.request("technology", "crypto")))
    assert [row.values["title"] for row in parsed.rows] == ["Bitcoin slips"]
    assert (parsed.issues, parsed.next) == ((), None)
    with pytest.raises(MalformedPayload, match="removed"):
        item.parse(answer("guardian.item", body("a/b", "c/d"), request=item.request("removed")))


def test_only_a_page_asked_for_is_compared():
    request = Request("guardian.search", "/search", {"q": "bitcoin"})
    answered = body(ARTICLE, currentPage=2, pages=2)
    assert len(search.parse(answer("guardian.search", answered, request=request)).rows) == 1
    with pytest.raises(MalformedPayload, match="page 2"):
        search.parse(answer("guardian.search", answered))


# --- recorded answers ---

RECORDED = {
    "item-content.json": (
        "Can vegans stomach the unpalatable truth about quinoa? | Joanna Blythman",
        1_358_331_271_000,
    ),
    "item-content-with-crossword.json": ("Cryptic crossword No 24,623", 1_433_890_800_000),
    "item-content-with-package.json": ("Cryptic crossword No 24,623", 1_433_890_800_000),
    "item-content-with-membership-element.json": ("membership-element", 1_443_105_440_000),
    "item-content-with-rich-link-element.json": ("Hajj pilgrimage: 717 dead in crush near Mecca", 1_443_101_304_000),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("file", sorted(RECORDED))
def test_recorded_items(shared_data, file):
    sent = (shared_data / "recorded" / "guardian" / file).read_bytes()
    content = json.loads(sent)["response"]["content"]
    url = f"https://content.guardianapis.com/{file.removesuffix('.json')}"
    assert endpoint_for_url(url) is item
    parsed = item.parse(Exchange(request_of_url(item, url), 200, {}, sent, FETCHED_AT))
    (row,) = parsed.rows
    assert parsed.issues == ()
    title, published_at = RECORDED[file]
    assert row.table == "stock_news"  # nothing says that it is of crypto
    assert (row.values["published_at"], content["webTitle"]) == (published_at, title)
    assert row.values["title"] == (content.get("fields") or {}).get("headline", title)
    assert row.values["url"] == content["webUrl"].replace("http:", "https:")
    assert row.values["feed"] == content["sectionId"]
    assert row.values["summary"] is None or "<" not in row.values["summary"]


@pytest.mark.shared_data
def test_recorded_list_of_removed_content_is_no_article(shared_data):
    sent = (shared_data / "recorded" / "guardian" / "removed.json").read_bytes()
    assert endpoint_for_url("https://content.guardianapis.com/removed") is None
    with pytest.raises(MalformedPayload, match="removed"):
        item.parse(Exchange(item.request("removed"), 200, {}, sent, FETCHED_AT))
