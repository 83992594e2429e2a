"""The Guardian's Content API, simulated: /search. Generated articles, one an hour or so a section."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from ray_app.clock import DAY_MS, MINUTE_MS, from_ms, iso, to_ms
from ray_app.sandbox.answers import Answer, Question, Rejection, SimulatedEndpoint, World, digits, json_answer
from ray_app.sandbox.stories import latest, moment_of, slug_of, story_of

#: minutes between two articles of a section; of anything else asked for
_STEPS: Final = {"technology": 90, "business": 30, "money": 240}
_STEP: Final = 180
#: nothing was published before 2020-01-01
_FIRST_MS: Final = 1_577_836_800_000


def _refuse(message: str, **more: Any) -> Rejection:
    return Rejection(json_answer({"response": {"status": "error", "message": message, **more}}, 400))


class Search(SimulatedEndpoint):
    """GET /search."""

    source: ClassVar[str] = "guardian"
    name = "search"
    pattern = re.compile(r"/search")

    def answer(self, question: Question, world: World) -> Answer:
        params = question.params
        if not params.get("api-key"):
            raise Rejection(json_answer({"message": "Unauthorized"}, 401))
        page, size = _whole(params, "page", 1, 10**6), _whole(params, "page-size", 10, 200)
        about = params.get("section") or params.get("tag") or params.get("q") or "news"
        section = params.get("section") or (params.get("tag") or "technology").split("/")[0]
        step_ms = _STEPS.get(params.get("section", ""), _STEP) * MINUTE_MS
        since, until = _day(params, "from-date", _FIRST_MS), _day(params, "to-date", question.now_ms - DAY_MS) + DAY_MS
        stream = f"guardian/{about}"
        last = latest(world, stream, step_ms, min(until - 1 if "to-date" in params else until, question.now_ms))
        first = latest(world, stream, step_ms, max(since, _FIRST_MS) - 1) + 1
        total = max(0, last - first + 1)
        pages = -(-total // size)
        if page > max(pages, 1):
            message = "requested page is beyond the number of available pages"
            raise _refuse(message, currentPage=page, pages=pages)
        order = params.get("order-by", "newest")
        numbers = range(last, first - 1, -1) if order != "oldest" else range(first, last + 1)
        fields = set(params.get("show-fields", "").split(",")) if params.get("show-fields") else set()
        body = {
            "status": "ok",
            "userTier": "developer",
            "total": total,
            "startIndex": (page - 1) * size + 1 if total else 0,
            "pageSize": size,
            "currentPage": page,
            "pages": pages,
            "orderBy": order,
            "results": [
                _article(world, stream, section, step_ms, number, fields)
                for number in numbers[(page - 1) * size : page * size]
            ],
        }
        return json_answer({"response": body})


def _whole(params: Any, name: str, default: int, most: int) -> int:
    said = params.get(name, str(default))
    if not digits(said) or not 1 <= int(said[:9]) <= most:
        raise _refuse(f"{name} must be between 1 and {most}")
    return int(said)


def _day(params: Any, name: str, default: int) -> int:
    said = params.get(name)
    if said is None:
        return default
    try:
        return to_ms(datetime.strptime(said[:10], "%Y-%m-%d").replace(tzinfo=UTC))
    except ValueError:
        raise _refuse(f"{name} is not a date") from None


def _article(world: World, stream: str, section: str, step_ms: int, number: int, fields: set[str]) -> dict[str, Any]:
    story = story_of(world, stream, number, stock=section in {"business", "money"})
    at_ms = moment_of(world, stream, step_ms, number)
    day = from_ms(at_ms)
    path = f"{section}/{day.year}/{day.strftime('%b').lower()}/{day.day:02d}/{slug_of(story)}"
    article: dict[str, Any] = {
        "id": path,
        "type": "article",
        "sectionId": section,
        "sectionName": section.title(),
        "webPublicationDate": iso(at_ms),
        "webTitle": story.title,
        "webUrl": f"https://www.theguardian.com/{path}",
        "apiUrl": f"https://content.guardianapis.com/{path}",
        "isHosted": False,
        "pillarId": "pillar/news",
        "pillarName": "News",
    }
    every = {
        "headline": story.title,
        "trailText": story.summary,
        "byline": story.author,
        "lastModified": iso(at_ms),
        "body": f"<p>{story.summary}</p>",
    }
    shown = {name: value for name, value in every.items() if name in fields and value is not None}
    return article | ({"fields": shown} if shown else {})


ENDPOINTS: Final[tuple[SimulatedEndpoint, ...]] = (Search(),)
