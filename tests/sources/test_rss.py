"""RSS 2.0, RDF and Atom: what is read of each, and what strangers' XML may not do."""

from __future__ import annotations

import codecs
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_app.clock import DAY_MS, HOUR_MS, MINUTE_MS, to_ms
from ray_app.errors import MalformedPayload, RateLimited
from ray_app.sources import ENDPOINTS, Exchange, Request, endpoint_for_url, feed_xml
from ray_app.sources.addressing import request_of_url
from ray_app.sources.rss import URLS
from ray_app.sources.rss_feeds import FEEDS, SITES
from ray_app.sources.texts import content_id
from tests.sources.samples import FETCHED_AT, NOON, answer
from tests.sources.samples_news import RSS
from tests.sources.test_fuzz import check, read

feed = ENDPOINTS["rss.feed"]
DATE = "<pubDate>Mon, 18 May 2026 11:00:00 GMT</pubDate>"


def rss(items: str, head: str = "<link>https://site.example/</link>") -> bytes:
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>t</title>{head}{items}</channel></rss>'.encode()


def item(inner: str, title: str = "A title", link: str = "https://site.example/a") -> str:
    return f"<item><title>{title}</title>{f'<link>{link}</link>' if link else ''}{inner}</item>"


def parsed(body: bytes, **options):
    return feed.parse(answer("rss.feed", body, **options))


def only(body: bytes, **options):
    result = parsed(body, **options)
    assert result.issues == ()
    (row,) = result.rows
    return row


# --- what is read ---


def test_every_field_of_an_item():
    result = parsed(RSS)
    first, second = result.rows
    assert first.table == "crypto_news"
    assert first.key == {"content_id": content_id("https://www.example.com/markets/bitcoin-slips")}
    assert {k: v for k, v in first.values.items() if k != "story_id"} == {
        "source": "rss.feed",
        "feed": "coindesk",
        "url": "https://www.example.com/markets/bitcoin-slips",
        "title": "Bitcoin slips below $77,000 & ether follows",
        "summary": "The largest coin lost 2 % in an hour.",
        "author": "Jane Doe",
        "category": "Markets",
        "language": "en-US",
        "published_at": NOON - 30 * MINUTE_MS,
        "known_at": FETCHED_AT,
        "deleted_at": None,
    }
    assert first.event_version == FETCHED_AT
    assert (second.values["published_at"], second.values["summary"], second.values["author"]) == (
        NOON - HOUR_MS,
        None,
        None,
    )
    assert second.values["category"] == "general"  # the feed's
    assert result.oldest == NOON - HOUR_MS


def test_stock_feed_makes_stock_news():
    assert only(rss(item(DATE)), request=feed.request("marketwatch")).table == "stock_news"


def test_atom():
    body = b"""<?xml version="1.0" encoding="utf-8"?>
    <feed xmlns="http://www.w3.org/2005/Atom" xml:lang="en"><title>t</title><link href="https://site.example/"/>
    <updated>2026-05-18T11:00:00Z</updated><id>urn:x</id>
    <entry><title type="html">AT&amp;amp;T &amp;lt;3 coins</title><id>urn:uuid:1</id>
      <link rel="enclosure" href="https://site.example/a.mp3"/><link rel="alternate" href="/posts/a?utm_source=x"/>
      <published>2026-05-18T12:30:00+02:00</published><updated>2026-05-18T11:15:30.5Z</updated>
      <author><name>Jane</name></author><category term="eth"/>
      <summary type="html">&lt;p&gt;One&lt;/p&gt;&lt;p&gt;two&lt;/p&gt;</summary></entry>
    <entry><title>Updated only</title><id>urn:uuid:2</id><link href="https://site.example/b"/>
      <updated>2026-05-18T10:00:00Z</updated><content type="html">&lt;b&gt;The content&lt;/b&gt;</content></entry>
    </feed>"""
    first, second = parsed(body).rows
    assert first.values["title"] == "AT&T <3 coins"
    assert first.values["url"] == "https://site.example/posts/a"
    assert first.values["published_at"] == NOON - 90 * MINUTE_MS
    assert first.event_version == FETCHED_AT
    assert (first.values["summary"], first.values["author"], first.values["category"]) == ("One two", "Jane", "eth")
    assert (second.values["published_at"], second.values["summary"]) == (NOON - 2 * HOUR_MS, "The content")
    assert parsed(body).issues == ()


def test_rdf():
    body = b"""<rdf:RDF xmlns="http://purl.org/rss/1.0/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
      xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="https://s.example/"><title>t</title>
      <link>https://s.example/</link></channel><item rdf:about="https://s.example/a"><title>A</title>
      <link>https://s.example/a</link><description>d</description><dc:date>2026-05-18T11:00:00Z</dc:date>
      <dc:creator>Jane</dc:creator></item></rdf:RDF>"""
    row = only(body)
    assert (row.values["published_at"], row.values["author"], row.values["summary"]) == (NOON - HOUR_MS, "Jane", "d")


@pytest.mark.parametrize(
    ("guid", "url"),
    [
        ('<guid isPermaLink="true">https://site.example/g</guid>', "https://site.example/g"),
        ("<guid>https://site.example/g</guid>", "https://site.example/g"),
        ('<guid isPermaLink="false">https://site.example/g</guid>', "https://site.example/g"),
    ],
)
def test_guid_that_is_an_address_stands_for_the_link(guid, url):
    assert only(rss(item(guid + DATE, link=""))).values["url"] == url


def test_guid_that_is_none_identifies_the_article_of_its_feed():
    row = only(rss(item('<guid isPermaLink="false">id-7</guid>' + DATE, link="")))
    assert row.key["content_id"] == content_id("rss:coindesk:id-7")
    assert row.values["url"] == "https://site.example"


def test_article_without_any_identity_or_title_is_left_out():
    body = rss(item(DATE) + item(DATE, link="") + item(DATE, title="", link="https://site.example/b"))
    result = parsed(body)
    assert len(result.rows) == 1
    assert [(issue.kind, issue.field) for issue in result.issues] == [("missing_id", "link"), ("missing_id", "title")]
    with pytest.raises(MalformedPayload, match="with a title"):
        parsed(rss(item(DATE, title="")))


@pytest.mark.parametrize("link", ["javascript:alert(1)", "mailto:a@b.c", "http://[::1"])
def test_link_that_is_no_address_is_not_stored(link):
    row = only(rss(item('<guid isPermaLink="false">7</guid>' + DATE, link=link)))
    assert row.values["url"] == "https://site.example"


@pytest.mark.parametrize(
    ("date", "ms"),
    [
        ("Mon, 18 May 2026 11:00:00 GMT", NOON - HOUR_MS),
        ("Mon, 18 May 2026 11:00:00 -0000", NOON - HOUR_MS),
        ("18 May 2026 07:00 EDT", NOON - HOUR_MS),
        ("Mon, 18 May 26 06:00:00 EST", NOON - HOUR_MS),
        ("Mon, 18 May 2026 13:00:00 +0200", NOON - HOUR_MS),
        ("2026-05-18T11:00:00Z", NOON - HOUR_MS),
        ("2026-05-18T13:00:00.000+02:00", NOON - HOUR_MS),
        ("Mon, 18 May 2026 12:04:00 GMT", NOON + 4 * MINUTE_MS),
        ("Mon, 18 May 2026 13:00:00 CEST", NOON - HOUR_MS),
        ("Mon, 18 May 2026 12:00:00 CET", NOON - HOUR_MS),
        ("Mon, 18 May 2026 13:00:00 GMT+0200", NOON - HOUR_MS),
        ("Mon, 18 May 2026 09:30:00 GMT-01:30", NOON - HOUR_MS),
        ("Mon, 18 May 2026 13:00:00 +02:00", NOON - HOUR_MS),
        ("2026-05-18 11:00:00 UTC", NOON - HOUR_MS),
        ("2026-05-18 11:00:00GMT", NOON - HOUR_MS),
        ("2026-05-18 13:00:00 +0200", NOON - HOUR_MS),
        ("05 Sept 2025 12:00:00 GMT", NOON - 255 * DAY_MS),
        ("Sun, 17 May 2026 24:00:00 GMT", NOON - 12 * HOUR_MS),
        ("Mon, 18 May 2026 10:59:60 GMT", NOON - HOUR_MS),
    ],
)
def test_dates_as_feeds_write_them(date, ms):
    assert only(rss(item(f"<pubDate>{date}</pubDate>"))).values["published_at"] == ms


@pytest.mark.parametrize(
    "date",
    ["yesterday", "2026-05-18", "Mon, 18 May 2026", "Mon, 18 May 2026 11:00:00", "Mon, 18 May 2026 11:00:00 BST",
     "Mon, 18 May 2026 24:00:30 GMT", "2026-05-18 UTC", "2026-05-17 24:00:00 UTC",
     "Mon, 32 May 2026 11:00:00 GMT", "2026-05-18T11:00:00", "1779102000", "Thu, 01 Jan 1970 00:00:00 GMT",
     "Mon, 18 May 2026 12:06:00 GMT", "Tue, 18 May 2027 11:00:00 GMT", "9" * 300, "Mon, 18 May 99999 11:00:00 GMT"],
)  # fmt: skip
def test_date_that_is_no_moment_or_ahead_costs_only_the_date(date):
    result = parsed(rss(item(f"<pubDate>{date}</pubDate>") + item(DATE, link="https://site.example/b")))
    assert [row.values["published_at"] for row in result.rows] == [None, NOON - HOUR_MS]
    assert [issue.field for issue in result.issues] == ["published"]
    assert result.rows[0].event_version == FETCHED_AT
    assert result.oldest == NOON - HOUR_MS


def test_date_that_is_none_leaves_the_one_beside_it():
    beside = '<dc:date xmlns:dc="http://purl.org/dc/elements/1.1/">2026-05-18T11:00:00Z</dc:date>'
    result = parsed(rss(item("<pubDate>yesterday</pubDate>" + beside)))
    assert [row.values["published_at"] for row in result.rows] == [NOON - HOUR_MS]
    assert [(issue.kind, issue.field) for issue in result.issues] == [("wrong_type", "published")]
    ahead = parsed(rss(item("<pubDate>Tue, 19 May 2026 11:00:00 GMT</pubDate>" + beside)))
    assert [row.values["published_at"] for row in ahead.rows] == [None]


def test_undated_feed_has_no_oldest():
    assert parsed(rss(item(""))).oldest is None
    empty = parsed(rss(""))
    assert (empty.rows, empty.oldest) == ((), None)


def test_same_article_twice():
    one, other = item(DATE), item(DATE, title="Another")
    tracked = item(DATE, link="https://site.example/a?utm_source=1#top")
    assert len(parsed(rss(one + one + tracked)).rows) == 1
    result = parsed(rss(one + other + item(DATE, link="https://site.example/b")))
    assert [row.values["url"] for row in result.rows] == ["https://site.example/b"]
    assert [issue.kind for issue in result.issues] == ["duplicate"]


def test_parts_of_one_page_are_told_apart_by_their_guids():
    one = item(DATE + '<guid isPermaLink="false">1</guid>', title="One", link="https://site.example/log#1")
    two = item(DATE + '<guid isPermaLink="false">2</guid>', title="Two", link="https://site.example/log#2")
    result = parsed(rss(one + two))
    assert result.issues == ()
    assert {row.key["content_id"]: (row.values["title"], row.values["url"]) for row in result.rows} == {
        content_id("rss:coindesk:1"): ("One", "https://site.example/log"),
        content_id("rss:coindesk:2"): ("Two", "https://site.example/log"),
    }


def test_what_a_picture_shows_is_not_the_summary():
    media = 'xmlns:m="http://search.yahoo.com/mrss/"'
    shown = f'<m:content {media} url="x"><m:description type="html">A picture</m:description></m:content>'
    empty = f"<m:content {media}><m:description/></m:content>"
    assert only(rss(item(shown + "<description>The story</description>" + DATE))).values["summary"] == "The story"
    assert only(rss(item("<description>The story</description>" + shown + DATE))).values["summary"] == "The story"
    assert only(rss(item(empty + "<description>The story</description>" + DATE))).values["summary"] == "The story"
    assert only(rss(item(shown + DATE))).values["summary"] == "A picture", "better than none"


def test_guid_of_no_address_is_no_relative_link():
    row = only(rss(item("<guid>12345</guid>" + DATE, link="")))
    assert row.key["content_id"] == content_id("rss:coindesk:12345")
    assert row.values["url"] == "https://site.example"


def test_unknown_feed_is_refused():
    with pytest.raises(MalformedPayload, match=r"nobody.*known are.*coindesk"):
        parsed(RSS, request=Request("rss.feed", "/nobody"))
    with pytest.raises(ValueError, match=r"nobody.*known are.*coindesk"):
        feed.request("nobody")


# --- what is mended, and what is refused ---


@pytest.mark.parametrize(
    ("title", "read"),
    [
        ("Bitcoin & ether", "Bitcoin & ether"),
        ("caf&eacute;&nbsp;&hellip; &unknown; &#8220;x&#x201D;", "café … &unknown; “x”"),
        ("a\x0bb\x1fc", "abc"),
        ("ETH&lt;BTC as traders rotate", "ETH<BTC as traders rotate"),
        ("<![CDATA[ETH<BTC as traders rotate]]>", "ETH<BTC as traders rotate"),
        ("zero &#0;&#xD800; width", "zero width"),
        ("<![CDATA[R&D <b>&amp; more</b>]]> & so on", "R&D & more & so on"),
    ],
)
def test_what_publishers_get_wrong_is_mended(title, read):
    assert only(rss(item(DATE, title=title))).values["title"] == read


ENTITIES = (
    '<!DOCTYPE rss [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "doctype",
    [ENTITIES, '<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]>', '<!DOCTYPE rss [<!ENTITY % p "x">]>',
     "<!DOCTYPE rss [<!ELEMENT rss ANY>]>", '<!DOCTYPE rss SYSTEM "http://evil.example/x.dtd" [<!ENTITY a "b">]>'],
)  # fmt: skip
def test_body_that_declares_anything_is_refused(doctype):
    with pytest.raises(MalformedPayload, match="declares"):
        parsed(doctype.encode() + rss(item(DATE, title="&c;&x;"))[len('<?xml version="1.0"?>') :])


def test_plain_doctype_may_stand():
    doctype = b'<!DOCTYPE rss PUBLIC "-//Netscape Communications//DTD RSS 0.91//EN" "http://x.example/rss-0.91.dtd">'
    body = rss(item(DATE))
    assert only(body[:21] + doctype + body[21:]).values["title"] == "A title"
    for start in (b"", b"<!-- note -->\n"):
        body = rss(item(DATE, title="caf&eacute; &amp; R&D"))
        assert only(body[:21] + start + doctype + body[21:]).values["title"] == "café & R&D"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>", "HTML"),
        (b"<opml version='2.0'><body/></opml>", "opml"),
        (b'{"items": []}', "not XML"),
        (b"   ", "empty"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (RSS[:-6], "cut off"),
        (RSS + b"<html></html>", "broken"),
        (RSS.replace(b"</item>", b"", 1), "broken"),
        (rss("<a>" * 200 + "</a>" * 200), "deeper"),
        (rss(item(DATE)).replace(b"A title", b"caf\xe9"), "not text in utf-8"),
    ],
)
def test_what_is_no_whole_feed_is_refused(body, why):
    with pytest.raises(MalformedPayload, match=why):
        parsed(body)


@pytest.mark.parametrize(
    "body",
    [
        b"Too Many Requests",
        b"error code: 1015",
        b'{"error": "rate limited"}',
        b"<html><title>429 Too Many Requests</title>",
    ],
)
def test_limit_in_words_is_one_under_any_status(body):
    with pytest.raises(RateLimited, match=r"Too Many Requests|1015|rate limited") as caught:
        parsed(body, headers={"retry-after": "9"})
    assert caught.value.retry_after_s == 9.0


def test_headline_about_limits_is_none():
    assert only(rss(item(DATE, title="Binance lifts its rate limit"))).values["title"] == "Binance lifts its rate limit"


def atom(entries: str) -> bytes:
    return f'<feed xmlns="http://www.w3.org/2005/Atom"><title>t</title>{entries}<updated>x</updated></feed>'.encode()


@pytest.mark.parametrize("more", ["<item/>", "<item></item>", "<item><title>€</title><link>x</link></item>"])
@pytest.mark.parametrize("after", ["", "<description>at the end</description>"])
def test_of_very_many_items_the_first_are_read(monkeypatch, more, after):
    monkeypatch.setattr(feed_xml, "MOST_ITEMS", 20)
    many = "".join(item(DATE, title=f"€ {n}", link=f"https://site.example/{n}") for n in range(20))
    whole = parsed(rss(many))
    assert (len(whole.rows), whole.issues) == (20, ())
    result = parsed(rss(many + more * 7 + after))
    assert result.rows == whole.rows
    assert [(issue.kind, issue.field) for issue in result.issues] == [("out_of_range", "items")]
    assert result.issues[0].detail.startswith("7 items")


def test_of_very_many_entries_the_first_are_read(monkeypatch):
    monkeypatch.setattr(feed_xml, "MOST_ITEMS", 20)
    entries = "".join(f"<entry><title>{n}</title><id>u:{n}</id></entry>" for n in range(25))
    result = parsed(atom(entries))
    assert [row.values["title"] for row in result.rows] == [str(n) for n in range(20)]
    assert len(result.issues) == 1


def test_what_feedparser_would_take_long_for_is_cut_or_refused():
    started = time.process_time()
    assert len(parsed(rss(item(DATE) + "<item/>" * 140_000)).rows) == 1
    with pytest.raises(MalformedPayload, match="more than 100000 elements"):
        parsed(rss(item("<a/>" * 240_000)))
    assert time.process_time() - started < 4.0


def test_a_huge_body_is_refused_at_once():
    with pytest.raises(MalformedPayload, match="5000000"):
        parsed(rss(item(DATE, title="x" * 5_000_001)))


GML = 'xmlns:gml="http://www.opengis.net/gml" xmlns:georss="http://www.georss.org/georss"'


def test_what_feedparser_stumbles_over_is_malformed_and_no_other_error():
    body = rss(item(DATE + f"<gml:pos {GML}>a b</gml:pos>"))
    with pytest.raises(MalformedPayload, match="feedparser failed: KeyError"):
        parsed(body)


PIECES = [b"<", b">", b"&", b"]]>", b"<![CDATA[", b"</item>", b"<item>", b"<link/>", b"<title/>", b"<pubDate/>", b"&#55296;",
          b"<dc:date>x</dc:date>", b"<guid isPermaLink='x'/>", b"<content mode='base64'>%</content>", b"\x00", b"\xff",
          b"<a xml:base='http://[x'>y</a>", b"<category/>", b"<source url='a'/>", b"<image><url/></image>"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(RSS)), st.sampled_from(PIECES)), min_size=1, max_size=4))
def test_feed_with_anything_in_it_is_read_or_refused(pieces):
    body = RSS
    for at, piece in pieces:
        body = body[:at] + piece + body[at:]
    exchange = answer("rss.feed", body)
    result = read(exchange)
    check(result)
    assert read(exchange) == result


@pytest.mark.parametrize("piece", ["<![CDATA[", "&", "&a", "<a ", "<item>", "]]>"])
def test_hostile_xml_takes_no_more_time_than_it_has_length(piece):
    started = time.process_time()
    with pytest.raises(MalformedPayload):
        parsed(b"<rss><channel>" + piece.encode() * 100_000)
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize(
    ("encode", "header"),
    [
        (lambda text: text.encode("iso-8859-1"), "text/xml; charset=ISO-8859-1"),
        (lambda text: text.replace("1.0", '1.0" encoding="windows-1252', 1).encode("cp1252"), "text/xml"),
        (lambda text: text.encode(), "application/rss+xml"),
        (lambda text: text.encode(), 'text/xml; charset="utf-8"'),
        (lambda text: text.encode(), "text/xml; charset=us-ascii"),  # a server's default, and not so
        (lambda text: codecs.BOM_UTF8 + text.encode(), "text/xml; charset=iso-8859-1"),
        (lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"), "text/xml"),
        (lambda text: text.encode(), "text/xml; charset=unicode_escape"),
        (lambda text: text.replace("1.0", '1.0" encoding="no-such', 1).encode(), "text/xml"),
    ],
)
def test_text_is_decoded_by_mark_header_or_declaration(encode, header):
    text = (
        rss(item(DATE, title="café – £5")).decode() if "1252" in header else rss(item(DATE, title="café £5")).decode()
    )
    row = only(encode(text), headers={"content-type": header})
    assert row.values["title"] == "café £5"


# --- the table of feeds ---


def test_table_of_feeds():
    assert len(SITES) == len(FEEDS) == len({site.url for site in SITES})
    assert sum(site.market == "crypto" for site in SITES) == 26
    assert {site.name for site in SITES if site.dead} == {"defi-pulse", "coingecko-news", "coinmarketcap"}
    assert all(site.url.startswith("https://") for site in SITES)


@pytest.mark.parametrize("name", sorted(FEEDS))
def test_address_of_a_feed_leads_to_it_with_or_without_a_slash(name):
    url = FEEDS[name].url
    for variant in (
        url,
        url.rstrip("/"),
        url + ("" if "?" in url or url.endswith("/") else "/"),
        url.replace("https", "http"),
    ):
        assert endpoint_for_url(variant) is feed
        assert request_of_url(feed, variant) == feed.request(name)
    assert URLS[f"/{name}"] == url


def test_addresses_of_nobody_lead_nowhere():
    for url in ("https://example.com/feed", "https://www.coindesk.com/", "https://[", "", "/coindesk"):
        assert feed.path_of(url) is None
    assert feed.path_of("https://blog.ethereum.org/feed.xml") == "/ethereum-foundation"
    assert request_of_url(feed, "http://127.0.0.1:8000/rss/coindesk").path == "/coindesk"


# --- recorded answers ---


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        (
            "coindesk_2026-08-15_trimmed.xml",
            "coindesk",
            [("https://www.coindesk.com/markets/2026/08/15/robot-maker-unitree-is-going-public", "2026-08-15T16:00:00+00:00"),
             ("https://www.coindesk.com/business/2026/08/15/swiss-mega-bank-ubs-ramps-up-bitcoin-exposure", "2026-08-15T15:10:00+00:00")],
        ),
        (
            "marketwatch_2026-08-15_trimmed.xml",
            "marketwatch",
            [("https://www.marketwatch.com/story/fed-signals-rate-path", "2026-08-22T20:45:00+00:00")],
        ),
    ],
)  # fmt: skip
def test_recorded_feeds(shared_data, file, name, expected):
    from datetime import datetime

    body = (shared_data / "recorded" / "rss" / file).read_bytes()
    fetched_at = to_ms(datetime.fromisoformat(expected[0][1])) + DAY_MS
    result = feed.parse(Exchange(feed.request(name), 200, {}, body, fetched_at))
    assert result.issues == ()
    assert [(row.values["url"], row.values["published_at"]) for row in result.rows] == [
        (url, to_ms(datetime.fromisoformat(moment))) for url, moment in expected
    ]
    assert all(row.values["title"].encode() in body and row.values["summary"].encode() in body for row in result.rows)
