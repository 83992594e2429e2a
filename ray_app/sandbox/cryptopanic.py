"""CryptoPanic, simulated: posts of v1 and of the developer v2, 20 a page, 200 in all."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from ray_app.clock import MINUTE_MS, iso
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.rng import unit_of
from ray_app.sandbox.stories import latest, moment_of, slug_of, story_of

_STEP_MS: Final = 20 * MINUTE_MS
_PAGE: Final = 20
_PAGES: Final = 10
_STREAM: Final = "cryptopanic"


class Posts(SimulatedEndpoint):
    """GET /v1/posts/ and /developer/v2/posts/."""

    source: ClassVar[str] = "cryptopanic"
    name = "posts"
    pattern = re.compile(r"/((?:free/)?v1|developer/v2)/posts")

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        if not params.get("auth_token"):
            raise Rejection(json_answer({"status": "Incomplete", "info": "Token not found"}, 401))
        said = params.get("page", "1")
        if not digits(said) or not 1 <= int(said[:9]) <= _PAGES:
            raise Rejection(json_answer({"detail": "Invalid page."}, 404))
        page = int(said)
        newest = latest(world, _STREAM, _STEP_MS, question.now_ms) - (page - 1) * _PAGE
        return json_answer(
            {
                "count": _PAGE * _PAGES,
                "next": _link(question, page + 1) if page < _PAGES else None,
                "previous": _link(question, page - 1) if page > 1 else None,
                "results": [
                    _post(world, number, v2=question.subject == "developer/v2")
                    for number in range(newest, newest - _PAGE, -1)
                ],
            }
        )


def _link(question: Question, page: int) -> str:
    query = urlencode({**question.params, "page": str(page)})
    return f"https://cryptopanic.com/api/{question.subject}/posts/?{query}"


def _post(world: World, number: int, *, v2: bool) -> dict[str, Any]:
    story = story_of(world, _STREAM, number)
    slug = slug_of(story)
    named = [asset for asset in world.market.assets if asset.name in story.title][:2]
    coins = [{"code": one.symbol, "title": one.name, "slug": one.coin_id} for one in named]
    post: dict[str, Any] = {
        "id": number,
        "kind": "news",
        "domain": "news.sandbox.example",
        "source": {"title": "[sandbox]", "region": "en", "domain": "news.sandbox.example", "type": "feed"},
        "title": story.title,
        "slug": slug,
        "published_at": iso(moment_of(world, _STREAM, _STEP_MS, number)),
        "created_at": iso(moment_of(world, _STREAM, _STEP_MS, number)),
        "url": f"https://cryptopanic.com/news/{number}/{slug}?mtm_campaign=API-OFA",
        "votes": {"negative": 0, "positive": int(9 * unit_of(world.seed, _STREAM, number, "votes")), "important": 0},
    }
    if v2:
        return post | {
            "description": story.summary,
            "original_url": f"https://news.sandbox.example/{slug}-{number}",
            "instruments": coins,
        }
    return post | ({"currencies": coins} if coins else {})


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Posts(),)
