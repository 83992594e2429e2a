"""What is to be scored, in pages: each may be done by any process, in any order, twice or after a kill.

The pages of a run are listed once by walking an index, and hold no texts: a page is a stretch of ``text_parts``, read
again by whoever scores it. So memory does not grow with the number of texts, a page that was done is empty for the
next who does it, and of two who do it at once the score that was known first stands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ray_app.clock import Clock
from ray_app.editions import joined, text_hash
from ray_app.errors import ModelUnavailable
from ray_app.scoring.plans import ModelPlan, Score, open_model
from ray_app.sentiment import stance
from ray_app.sentiment.vocabulary import TextScore
from ray_app.storage import sentiment_queries as queries
from ray_app.storage.engine import Database
from ray_app.storage.sentiment_queries import PartCursor, Record

#: parts a page: what a kill costs, and what a process holds at a time
TRANSFORMER_PARTS: Final = 256
LEXICON_PARTS: Final = 2_000
#: hashes that are remembered to give the same words to one page: reprints follow within hours
_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class Page:
    """Parts of one kind after a cursor (None: from the first) up to another.

    ``parts``: those whose words are still there. ``skip``: words among them that an earlier page scores. ``revision``
    None: parts that no revision has scored.
    """

    kind: str
    revision: str | None
    since: int
    after: PartCursor | None
    until: PartCursor
    parts: int
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a page: its ``parts`` as listed, the words ``scored`` now, of them those ``without`` a score.

    ``failed``: why the model could not go on; the page is as it was.
    """

    parts: int
    scored: int = 0
    without: int = 0
    failed: str | None = None


def pages(
    db: Database, plan: ModelPlan, *, since: int = 0, rescore: bool = False, limit: int | None = None
) -> Iterator[Page]:
    """The pages of what the model has not scored, oldest first.

    ``rescore``: what this revision has not scored, else what no revision of the model has. ``limit``: parts, about.
    Parts whose words are gone are passed over: what they said may be another text's words, too.
    """
    size = LEXICON_PARTS if plan.local is None else TRANSFORMER_PARTS
    revision = plan.revision if rescore else None
    seen: OrderedDict[str, None] = OrderedDict()
    for kind in plan.kinds:
        after: PartCursor | None = None
        while limit is None or limit > 0:
            most = size if limit is None else min(size, limit)
            with db.read() as conn:
                rows = queries.unscored(conn, kind, plan.name, revision, since=since, after=after, limit=most)
                here = {text["text_hash"] for text in queries.texts_of_parts(conn, kind, rows)}
            if not rows:
                break
            until = queries.place_of(rows[-1])
            parts = sum(row.text_hash in here for row in rows)
            skip = frozenset(key for key in here if key in seen)
            if len(skip) < len(here):
                yield Page(kind, revision, since, after, until, parts, skip)
            _remember(seen, here)
            after = until
            limit = None if limit is None else limit - parts


def _remember(seen: OrderedDict[str, None], hashes: Iterable[str]) -> None:
    seen.update(dict.fromkeys(hashes))
    while len(seen) > _REMEMBERED:
        seen.popitem(last=False)


class PageScorer:
    """Scores pages with one model, which it opens at the first: of files (:func:`open_model`), or as it is told."""

    def __init__(
        self,
        plan: ModelPlan,
        db: Database,
        clock: Clock,
        run_id: str,
        opened: Callable[[ModelPlan], Score] = open_model,
    ) -> None:
        self._plan = plan
        self._db = db
        self._clock = clock
        self._run_id = run_id
        self._open = opened
        self._score: Score | None = None

    def __call__(self, page: Page) -> Outcome:
        """Read, score and store a page: all of it in one transaction, or nothing."""
        words = self._words(page)
        if not words:
            return Outcome(page.parts)
        try:
            if self._score is None:
                self._score = self._open(self._plan)
            said = self._score(list(words.values()))
        except ModelUnavailable as error:
            return Outcome(page.parts, failed=error.reason)
        now = self._clock.now_ms()
        rows = [self._row(key, one, now) for key, one in zip(words, said, strict=True)]
        self._db.run(partial(queries.add_scores, rows=rows))
        return Outcome(page.parts, len(rows), sum(one.score is None for one in said))

    def _words(self, page: Page) -> dict[str, str]:
        """By hash the words that are still to be scored."""
        with self._db.read() as conn:
            parts = queries.unscored(
                conn, page.kind, self._plan.name, page.revision, since=page.since, after=page.after, until=page.until
            )
            texts = queries.texts_of_parts(conn, page.kind, (part for part in parts if part.text_hash not in page.skip))
        words = {text["text_hash"]: words_of(text) for text in texts}
        return {key: said for key, said in words.items() if text_hash(said) == key}

    def _row(self, key: str, said: TextScore, now: int) -> dict[str, Any]:
        negative, neutral, positive = said.probabilities or (None, None, None)
        return {
            "text_hash": key,
            "model": self._plan.name,
            "revision": self._plan.revision,
            "score": said.score,
            "p_negative": negative,
            "p_neutral": neutral,
            "p_positive": positive,
            "reason": said.reason,
            "known_at": now,
            "run_id": self._run_id,
        }


def words_of(text: Record) -> str:
    """The words of a part, of ``title``, ``body`` and ``spans``."""
    return stance.words(joined(text["title"], text["body"]), stance.read(text["spans"]))
