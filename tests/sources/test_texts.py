"""One address, plain text, one id for the reprints of a story."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.sources import ENDPOINTS
from ray_app.sources.texts import canonical_url, code_word, content_id, depth_of, news_row, plain_text, story_id
from tests.sources.samples import BODIES, FETCHED_AT, answer
from tests.sources.samples_social import listing, post, search, tweet

CANONICAL = {
    "https://www.example.com/a/b": "https://www.example.com/a/b",
    " HTTP://WWW.Example.COM:80/a/b/?utm_source=rss&utm_medium=x#top ": "https://www.example.com/a/b",
    "https://user:secret@example.com:8443/a?b=2&a=1": "https://example.com:8443/a?a=1&b=2",
    "https://example.com/?p=123": "https://example.com?p=123",
    "https://example.com/a?fbclid=1&mod=mw_rss&.tsrc=rss&mtm_campaign=API&q=": "https://example.com/a?q=",
    "https://example.com./caf%c3%a9 x/ü": "https://example.com/caf%C3%A9%20x/%C3%BC",
    "https://[2001:db8::1]/a": "https://[2001:db8::1]/a",
    "https://example.com/a?id=5&id=4": "https://example.com/a?id=4&id=5",
}


@pytest.mark.parametrize(("given_url", "expected"), CANONICAL.items())
def test_an_article_has_one_address(given_url, expected):
    assert canonical_url(given_url) == expected
    assert canonical_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    ["", "/a", "example.com", "ftp://example.com/a", "javascript:alert(1)", "https://", "https:///a", "http://[::1/a",
     "https://example.com:port/", "https://exa mple.com/a", "https://example.com/\ud800", "https://example.com/\x00",
     "https://example.com/?q=\udfff", "https://example.com/" + "a" * 2_000, "data:text/html,x"],
)  # fmt: skip
def test_what_is_no_address_is_none(url):
    assert canonical_url(url) is None


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map(lambda text: f"https://example.com/{text}")))
def test_an_address_is_canonical_once_and_for_all(text):
    once = canonical_url(text)
    if once is not None:
        once.encode()
        assert canonical_url(once) == once or len(once) > 2_000
        assert len(content_id(once)) == 64


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One</p><p>two<br/>three</p>four", "One two three four"),
        ("AT&amp;T &lt;3 Bitcoin &#8220;now&#8221;&nbsp;!", "AT&T <3 Bitcoin “now” !"),
        ("BTC < 50k & ETH > 3k", "BTC < 50k & ETH > 3k"),
        ("a<script>alert('x')</script><style>p{}</style>b", "ab"),
        ("zero\u200bwidth soft\u00adhyphen\x00nul\ud800", "zerowidth softhyphennul"),
        ("ETH<BTC as traders rotate", "ETH<BTC as traders rotate"),
        ("1 < 2 and a<b", "1 < 2 and a<b"),
        ("Supply x<y and z>w so price rises", "Supply x<y and z>w so price rises"),
        ("a<BTC</b> and <B>c</B>", "a<BTC and c"),
        ("fees </ 5 and </BTC>", "fees </ 5 and </BTC>"),
        ("<o:p>Word</o:p>, <fb:like href='x'/>a <my-box>box</my-box>", "Word, a box"),
        ('<foo class="x">odd<Img src="y">', "odd"),
        ('cut off <a href="https://e.com/lo', "cut off"),
        ("profit<loss>>all", "profit<loss>>all"),
        ("  \n ", None),
        ("<img src=x>", None),
        (None, None),
        (7, None),
    ],
)
def test_markup_becomes_readable_text(markup, text):
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<!--",
        "<![CDATA[",
        "&",
        "<a b='",
        "</",
        "&#x",
        "<script>",
        "<?",
        "<b ",
        "<x",
        "</b",
        "<a:a ",
        "<b a",
        "<b a = ",
        "<x>",
        "<b>",
        "<a b=''",
    ],
)
def test_hostile_markup_takes_no_more_time_than_it_has_length(piece):
    started = time.process_time()
    text = plain_text(piece * 100_000)
    assert time.process_time() - started < 2.0
    assert text is None or len(text) <= 20_000


def test_text_is_cut_and_codes_are_ascii():
    assert len(plain_text("word " * 10_000)) <= 20_000
    assert plain_text("abcdef", longest=3) == "abc"
    assert code_word("en-US", 16) == "en-US"
    assert code_word("日本語", 16) is None
    assert code_word(None, 16) is None


REPRINTS = [
    "SEC approves first spot Bitcoin ETFs, opening $10B market",
    "SEC Approves First Spot Bitcoin ETFs, Opening $10B Market - CoinDesk",
    "SEC approves the first spot Bitcoin ETFs, opening a $10 billion market | Reuters",
    "BREAKING: SEC approves first spot Bitcoin ETFs opening $10bn market",
    "‘SEC approves first spot Bitcoin ETFs’, opening $10 Billion market (cointelegraph.com)",
    "[Updated] SEC approves first “spot” Bitcoin ETFs — opening $10B market – Crypto News Flash",
]


def test_reprints_of_one_story_from_several_feeds_share_an_id():
    assert len({story_id(title) for title in REPRINTS}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bitcoin hits $77,000", "Bitcoin Hits $77K!"),
        ("Bitcoin falls 5% in a day", "Bitcoin falls 5 % in day"),
        ("Bitcoin falls 5% today", "Bitcoin falls 5 percent today"),
        ("Bitcoin falls 5% today", "Bitcoin falls 5 per cent today"),
        ("Bitcoin falls 5% today", "Bitcoin falls 5 Percent today"),
        ("Bitcoin −5% today", "Bitcoin -5% today"),
        ("U.S. SEC sues Binance", "US SEC sues Binance"),
        ("Trade with the U.S.", "Trade with the US"),
        ("SEC sues Binance in U.S", "SEC sues Binance in US"),
        ("Bitcoin tops $100k (Updated)", "Bitcoin tops $100,000"),
        ("Bitcoin tops $100k [UPDATE] - CoinDesk", "Bitcoin tops $100k - The Wall Street Journal (updated)"),
        ("Bitcoin soars", "Bitcoin soars | Crypto Valley News"),
        ("BITCOIN SOARS", "Bitcoin soars - coindesk"),
        ("Coinbase's profit doubles", "Coinbase profit doubles"),
        ("Ｂｉｔｃｏｉｎ rallies", "Bitcoin rallies"),
        ("Tether mints 1,000,000 USDT", "Tether mints 1 million USDT - The Block"),
    ],
)
def test_one_story_written_two_ways(one, other):
    assert story_id(one) == story_id(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bitcoin hits $77,000", "Bitcoin hits $78,000"),
        ("Bitcoin falls 1.5%", "Bitcoin falls 15%"),
        ("Bitcoin overtakes Ethereum", "Ethereum overtakes Bitcoin"),
        ("Ethereum - up 5% this week", "Ethereum - down 5% this week"),
        ("Bitcoin -5%", "Bitcoin +5%"),
        ("Bitcoin -$5", "Bitcoin +$5"),
        ("Bitcoin soars - bad crypto news", "Bitcoin soars - good crypto news"),
        ("Price analysis 5/12: BTC, ETH", "Price analysis 5/13: BTC, ETH"),
        ("Price analysis: BTC", "Price analysis: ETH"),
        ("Bitcoin did not fall", "Bitcoin did fall"),
        ("???", "!!!"),
        ("比特币上涨", "比特币下跌"),
        ("The A", "The An"),
        ("", "?"),
    ],
)
def test_two_stories_are_two(one, other):
    assert story_id(one) != story_id(other)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_title_has_an_id_and_case_does_not_matter(title):
    assert len(story_id(title)) == 64
    assert story_id(title) == story_id(f"  {title}  ") or not title.strip()


def test_hostile_titles_take_no_time():
    started = time.process_time()
    for piece in ("1,000", " - a", "(", "[", " the", "w ", "9"):
        story_id(piece * 20_000)
    assert time.process_time() - started < 1.0


def test_row_is_known_from_its_fetch_and_what_is_said_last_stands():
    row = news_row(
        "crypto_news", source="s", feed="f", url="https://e.com/a", title="T", summary=None, fetched_at=1_000,
        published_at=500, author="x" * 300, category="y" * 200,
    )  # fmt: skip
    assert (row.event_version, row.values["known_at"], row.values["published_at"]) == (1_000, 1_000, 500)
    assert (len(row.values["author"]), len(row.values["category"])) == (200, 100)
    assert row.key["content_id"] == content_id("https://e.com/a")


def test_one_article_that_is_pinned_makes_no_feed_deep():
    assert depth_of([]) is None
    assert depth_of([30, 10, 20]) == 10
    assert depth_of([1, *range(100, 110)]) == 100


_OLD = "2008-12-31T23:59:59Z", "1969-07-20T20:17:00Z", "0001-01-01T00:00:00+14:00"
_OLD_RSS = "Wed, 31 Dec 2008 23:59:59 GMT", "Sun, 20 Jul 1969 20:17:00 GMT", "Mon, 01 Jan 0001 00:00:00 +1400"
_ITEM = b"<item><title>t</title><link>https://e.com/%s</link><pubDate>%s</pubDate></item>"


def _feed(date: str) -> bytes:
    items = _ITEM % (b"old", date.encode()) + _ITEM % (b"new", b"Mon, 18 May 2026 11:00:00 GMT")
    return b'<rss version="2.0"><channel><link>https://e.com</link>%s</channel></rss>' % items


def _guardian(date: str) -> dict[str, Any]:
    whole = BODIES["guardian.search"]["response"]
    first, *rest = whole["results"]
    return {"response": whole | {"results": [first | {"webPublicationDate": date}, *rest]}}


def _cryptopanic(date: str) -> dict[str, Any]:
    first, *rest = BODIES["cryptopanic.posts"]["results"]
    return BODIES["cryptopanic.posts"] | {"results": [first | {"published_at": date}, *rest]}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        *(("rss.feed", _feed(date)) for date in (*_OLD, *_OLD_RSS)),
        *(("guardian.search", _guardian(date)) for date in _OLD),
        *(("cryptopanic.posts", _cryptopanic(date)) for date in _OLD),
    ],
)
def test_article_dated_before_the_first_coin_loses_its_date_alone(name, body):
    parsed = ENDPOINTS[name].parse(answer(name, body))
    assert [row.values["published_at"] is None for row in parsed.rows] == [True, False]
    assert len(parsed.issues) == 1
    assert all(row.values["known_at"] == FETCHED_AT for row in parsed.rows)


@pytest.mark.parametrize("made", [1_230_767_999, 0, -1.0, -1e12, -1e300])
@pytest.mark.parametrize("name", ["reddit.listing", "reddit.by_id"])
def test_reddit_post_dated_before_the_first_coin_is_left_out_with_an_issue(name, made):
    for others in ([post("t3_1abcdf")], []):
        parsed = ENDPOINTS[name].parse(answer(name, listing(post(created_utc=made), *others)))
        assert [row.key["content_id"] for row in parsed.rows] == ["reddit:t3_1abcdf"][: len(others)]
        assert [issue.field for issue in parsed.issues] == ["created_utc"]


@pytest.mark.parametrize("made", _OLD)
def test_x_post_dated_before_the_first_coin_is_left_out_with_an_issue(made):
    for others in ([tweet("2056339471364567041")], []):
        parsed = ENDPOINTS["x.recent_search"].parse(answer("x.recent_search", search(tweet(created_at=made), *others)))
        assert [row.key["content_id"] for row in parsed.rows] == ["x:2056339471364567041"][: len(others)]
        assert [issue.field for issue in parsed.issues] == ["created_at"]
