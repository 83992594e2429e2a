"""Which models the settings name, what there is of them on this machine, and how a process opens one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ray_app.errors import ModelIncomplete, ModelMissing
from ray_app.sentiment import lexicons, models
from ray_app.sentiment.ensemble import WEIGHTS
from ray_app.sentiment.models import LocalModel, ModelSpec
from ray_app.sentiment.vocabulary import LEXICONS, TextScore
from ray_app.settings import Settings
from ray_app.storage.sentiment_queries import KINDS

#: texts in, one score each out, in order; ModelUnavailable where a model cannot go on
Score = Callable[[Sequence[str]], list[TextScore]]

#: what each kind of text is about; the models of its ensemble are those that score it
DOMAINS: Final = {kind: "stock" if kind == "stock_news" else "crypto" for kind in KINDS}


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model that is whole on this machine, and how to run it; small, and any process may open it."""

    name: str
    revision: str
    #: None: a lexicon
    local: LocalModel | None = None
    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16", "int8"] | None = None
    threads: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of texts it scores: a transformer those of the domain it was trained on."""
        return tuple(kind for kind, domain in DOMAINS.items() if self.name in WEIGHTS[domain])


def spec_of(settings: Settings, name: str, revision: str | None = None) -> ModelSpec:
    """Where a transformers model comes from; ``revision`` beats the settings'. KeyError: not such a model."""
    sources = {
        "cryptobert": (settings.cryptobert_model, settings.cryptobert_revision),
        "finbert": (settings.finbert_model, settings.finbert_revision),
    }
    source, configured = sources[name]
    return ModelSpec(name, source, revision or configured)


def plan(settings: Settings, name: str, revision: str | None = None, *, fetch: bool = False) -> ModelPlan:
    """The plan of a model by name. ModelUnavailable says why there is none.

    ``revision``: of the hub, instead of the settings'. ``fetch``: bring what is not here, or not whole; that may take
    minutes. What is here is not asked for again: a model stays the one it was until somebody names another revision.
    """
    if name in LEXICONS:
        return ModelPlan(name, lexicons.load(name).revision)
    spec = spec_of(settings, name, revision)
    try:
        local = models.resolve(spec, settings.models_dir)
    except (ModelMissing, ModelIncomplete):
        if not fetch:
            raise
        local = models.fetch(spec, settings.models_dir)
    device = "cuda" if settings.sentiment_actor_gpus else "cpu"
    return ModelPlan(name, local.revision, local, device, settings.sentiment_precision, settings.sentiment_threads)


def open_model(plan: ModelPlan) -> Score:
    """Load the model, for seconds. ModelUnavailable where its files are not what they were."""
    if plan.local is None:
        lexicon = lexicons.load(plan.name)
        return lambda texts: list(lexicon.scores(texts))
    from ray_app.sentiment.scorer import Scorer, ScorerOptions

    scorer = Scorer.load(plan.local, ScorerOptions(plan.device, plan.precision, plan.threads))

    def score(texts: Sequence[str]) -> list[TextScore]:
        return [TextScore(one.score, one.probabilities, one.reason) for one in scorer.score(texts)]

    return score
