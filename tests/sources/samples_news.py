"""Good answers of the sources of news, written by hand after the documented formats (see samples.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_app.sources import ENDPOINTS, Request

#: 2026-05-18T12:00:00Z, as in samples.py
NOON = 1_779_105_600_000
FETCHED_AT = NOON + 7_300

RSS = b"""<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"
     xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:atom="http://www.w3.org/2005/Atom">
  <channel>
    <title>An Example of News</title>
    <link>https://www.example.com</link>
    <atom:link href="https://www.example.com/feed" rel="self" type="application/rss+xml"/>
    <language>en-US</language>
    <item>
      <title><![CDATA[Bitcoin slips below $77,000 &amp; ether follows]]></title>
      <link>https://www.example.com/markets/bitcoin-slips?utm_source=rss&amp;utm_medium=feed</link>
      <guid isPermaLink="false">5c1d9a0e-1</guid>
      <pubDate>Mon, 18 May 2026 11:30:00 +0000</pubDate>
      <description>&lt;p&gt;The largest coin lost &lt;b&gt;2&amp;nbsp;%&lt;/b&gt; in an hour.&lt;/p&gt;</description>
      <content:encoded><![CDATA[<p>The whole text, which is not stored.</p>]]></content:encoded>
      <dc:creator>Jane Doe</dc:creator>
      <category>Markets</category>
      <category>Bitcoin</category>
    </item>
    <item>
      <title>Protocol X publishes its audit</title>
      <link>https://www.example.com/tech/audit</link>
      <pubDate>Mon, 18 May 2026 13:00:00 +0200</pubDate>
    </item>
  </channel>
</rss>"""

ARTICLE: Mapping[str, Any] = {
    "id": "technology/2026/may/18/bitcoin-slips",
    "type": "article",
    "sectionId": "technology",
    "sectionName": "Technology",
    "webPublicationDate": "2026-05-18T11:00:00Z",
    "webTitle": "Bitcoin slips | Jane Doe",
    "webUrl": "https://www.theguardian.com/technology/2026/may/18/bitcoin-slips",
    "apiUrl": "https://content.guardianapis.com/technology/2026/may/18/bitcoin-slips",
    "isHosted": False,
    "pillarId": "pillar/news",
    "pillarName": "News",
    "fields": {
        "headline": "Bitcoin slips",
        "trailText": "<p>The largest coin lost <strong>2&nbsp;%</strong></p>",
        "byline": "Jane Doe",
        "lastModified": "2026-05-18T11:20:00Z",
    },
}

BODIES: Mapping[str, Any] = {
    "rss.feed": RSS,
    "guardian.search": {
        "response": {
            "status": "ok",
            "userTier": "developer",
            "total": 2,
            "startIndex": 1,
            "pageSize": 200,
            "currentPage": 1,
            "pages": 1,
            "orderBy": "newest",
            "results": [
                ARTICLE,
                {
                    "id": "technology/2026/may/18/other",
                    "type": "article",
                    "sectionId": "technology",
                    "sectionName": "Technology",
                    "webPublicationDate": "2026-05-18T10:00:00Z",
                    "webTitle": "Another article",
                    "webUrl": "https://www.theguardian.com/technology/2026/may/18/other",
                },
            ],
        }
    },
    "guardian.item": {"response": {"status": "ok", "userTier": "developer", "total": 1, "content": ARTICLE}},
    "cryptopanic.posts": {
        "count": 2,
        "next": "https://cryptopanic.com/api/developer/v2/posts/?auth_token=the-key&page=2",
        "previous": None,
        "results": [
            {
                "id": 20750357,
                "slug": "Bitcoin-slips",
                "kind": "news",
                "title": "Bitcoin slips",
                "description": "The largest coin lost 2 %.",
                "published_at": "2026-05-18T11:20:14Z",
                "created_at": "2026-05-18T11:20:20Z",
                "domain": "example.com",
                "source": {"title": "Example", "region": "en", "domain": "example.com", "type": "feed"},
                "original_url": "https://example.com/bitcoin-slips?utm_source=cryptopanic",
                "url": "https://cryptopanic.com/news/20750357/Bitcoin-slips?mtm_campaign=API-OFA",
                "instruments": [{"code": "BTC", "title": "Bitcoin", "slug": "bitcoin"}, {"code": "ETH"}],
                "votes": {"negative": 0, "positive": 3, "important": 1},
            },
            {
                "id": 20750356,
                "kind": "news",
                "title": "Of the smallest plan: no address",
                "description": None,
                "published_at": "2026-05-18T11:00:00Z",
            },
        ],
    },
}
REQUESTS: Mapping[str, Callable[[], Request]] = {
    "rss.feed": lambda: ENDPOINTS["rss.feed"].request("coindesk"),
    "guardian.search": lambda: ENDPOINTS["guardian.search"].request("crypto", NOON, tag="technology/cryptocurrencies"),
    "guardian.item": lambda: ENDPOINTS["guardian.item"].request(str(ARTICLE["id"]), "crypto"),
    "cryptopanic.posts": ENDPOINTS["cryptopanic.posts"].request,
}
