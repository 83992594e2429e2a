"""Texts to probabilities with a transformers model: the one class under the batch job and the online deployment.

    local = resolve(FINBERT, cache)
    scorer = Scorer.load(local, ScorerOptions(threads=2))
    for reading in scorer.stream(texts): ...

A chunk of texts is tokenised once, sorted by length and run in batches of a bounded number of tokens, so that a batch
holds texts of nearly one length; the readings come back in the order of the texts. On a CPU each thread has a batch of
its own: threads that share one wait for each other after every product.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor

from ray_app.errors import ModelOutOfMemory, ModelUnsuitable
from ray_app.sentiment.encoder import Forward, Packed, Padded
from ray_app.sentiment.int8 import quantise
from ray_app.sentiment.loading import load_model, load_tokens, out_of_memory, pad_id
from ray_app.sentiment.models import LocalModel
from ray_app.sentiment.tokens import MOST_CHARACTERS_PER_TOKEN, Encoded, Tokens

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16", "int8"]

#: Tokens a batch. On a CPU the activations of a small batch stay in its caches; a GPU wants work.
CPU_TOKENS: Final = 1_024
CUDA_TOKENS: Final = 32_768
#: a batch of fewer is not worth a thread
FEWEST_FOR_A_THREAD: Final = 256

#: texts tokenised and sorted together: what stream() holds at a time
CHUNK_TEXTS: Final = 1_024

NOT_FINITE: Final = "the model gave numbers that are not finite"


@dataclass(frozen=True, slots=True)
class ScorerOptions:
    """How a model is run.

    ``precision`` None: on a GPU bf16 (fp16 before Ampere), on a CPU with bf16 instructions bf16, else fp32; int8 only
    when asked for. ``threads``: of a CPU; None: as many as it has processors. ``tokens``: per batch; None: see
    CPU_TOKENS and CUDA_TOKENS.
    """

    device: str = "cpu"
    precision: Precision | None = None
    threads: int | None = None
    tokens: int | None = None


class Reading(NamedTuple):
    """What the model says of one text: probabilities of (negative, neutral, positive), or the reason for their absence.

    ``truncated``: the text is longer than the model reads; the probabilities are those of its beginning.
    """

    probabilities: tuple[float, float, float] | None
    reason: str | None = None
    truncated: bool = False

    @property
    def score(self) -> float | None:
        """``p_positive - p_negative``, from -1 to 1."""
        return None if self.probabilities is None else self.probabilities[2] - self.probabilities[0]

    @property
    def confidence(self) -> float | None:
        """The largest probability."""
        return None if self.probabilities is None else max(self.probabilities)


class Scorer:
    """A loaded model. Scoring is deterministic but for int8's neighbours (ray_app/sentiment/int8.py)."""

    def __init__(
        self,
        local: LocalModel,
        tokens: Tokens,
        forward: Forward,
        *,
        precision: Precision,
        device: torch.device,
        tokens_per_batch: int,
        threads: int,
    ) -> None:
        self.name = local.name
        self.revision = local.revision
        self.precision: Precision = precision
        self.device = device
        self.tokens_per_batch = tokens_per_batch
        self.max_tokens = tokens.max_tokens
        self._columns = list(local.columns)
        self.tokens = tokens
        self._forward = forward
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, f"{local.name}-", torch.set_num_threads, (1,)) if threads > 1 else None

    @classmethod
    def load(cls, local: LocalModel, options: ScorerOptions | None = None) -> Scorer:
        """Read tokenizer and weights and warm up.

        Raises ModelIncomplete (files cannot be read), ModelUnsuitable (they are not this architecture's), and
        ModelOutOfMemory (it does not fit the device).
        """
        options = options or ScorerOptions()
        device = torch.device(options.device)
        threads = 1
        if device.type == "cpu":
            threads = options.threads or len(os.sched_getaffinity(0))
            _keep_freed_memory()
        precision = options.precision or _best_precision(device)
        if (precision == "fp16" and device.type == "cpu") or (precision == "int8" and device.type != "cpu"):
            raise ModelUnsuitable(local.name, f"{precision} is not for {device.type}: int8 for cpu, fp16 for cuda")
        if precision == "int8" and torch.backends.quantized.engine not in {"x86", "fbgemm"}:
            raise ModelUnsuitable(local.name, "int8 is for x86 processors with AVX2 (FBGEMM); choose another precision")
        model = load_model(local, _DTYPES.get(precision, torch.float32))
        tokens = load_tokens(local, model.config)
        try:
            forward = _forward_of(model, device, precision)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise ModelOutOfMemory(local.name, f"its weights do not fit {device}; choose a smaller model") from error
        budget = options.tokens or (CPU_TOKENS if device.type == "cpu" else CUDA_TOKENS)
        scorer = cls(
            local, tokens, forward, precision=precision, device=device, tokens_per_batch=budget, threads=threads
        )
        scorer.warm_up()
        return scorer

    def warm_up(self) -> None:
        """Run a short and a full-length text: buffers are allocated and kernels chosen before somebody waits."""
        self.score(["up", "the market " * self.max_tokens])

    def stream(self, texts: Iterable[str | None], chunk_texts: int = CHUNK_TEXTS) -> Iterator[Reading]:
        """One reading a text, in order; memory does not grow with the number or the length of the texts."""
        limit = MOST_CHARACTERS_PER_TOKEN * self.max_tokens + 1  # one more tells Tokens that there was more
        shortened = (text and text[:limit] for text in texts)
        while chunk := list(itertools.islice(shortened, chunk_texts)):
            yield from self.score(chunk)

    def score(self, texts: Sequence[str | None]) -> list[Reading]:
        """One reading a text, in order. Raises ModelOutOfMemory where a single text is too much for the device."""
        encoded = self.tokens.encode(texts)
        found = [Reading(None, item.reason, item.truncated) for item in encoded]
        order = sorted((n for n, item in enumerate(encoded) if item.ids is not None), key=lambda n: _length(encoded[n]))
        order.reverse()  # the largest batch first: what does not fit shows at once
        batches = list(self._batches(order, encoded))
        logits = self._run([[encoded[n].ids or [] for n in batch] for batch in batches])
        for batch, of_batch in zip(batches, logits, strict=True):  # only now is a GPU waited for
            for n, reading in zip(batch, self._readings(of_batch), strict=True):
                found[n] = reading._replace(truncated=encoded[n].truncated)
        return found

    def _batches(self, order: list[int], encoded: list[Encoded]) -> Iterator[list[int]]:
        """``order`` (longest first) in pieces that cost at most ``tokens_per_batch``, or of one text; one a thread."""
        batch: list[int] = []
        total = 0
        share = sum(_length(encoded[n]) for n in order) // self._threads + 1
        most = min(self.tokens_per_batch, max(share, FEWEST_FOR_A_THREAD)) if self._pool else self.tokens_per_batch
        for n in order:
            length = _length(encoded[n])
            longest = _length(encoded[batch[0]]) if batch else length
            if batch and self._forward.cost(len(batch) + 1, longest, total + length) > most:
                yield batch
                batch, total = [], 0
            batch.append(n)
            total += length
        if batch:
            yield batch

    def _run(self, batches: list[list[list[int]]]) -> list[Tensor]:
        if self._pool is not None and len(batches) > 1:
            return list(self._pool.map(self._logits, batches))
        if self.device.type == "cpu":
            torch.set_num_threads(self._threads)  # of this thread; the number it starts with is another one's
        return [self._logits(batch) for batch in batches]

    @torch.inference_mode()
    def _logits(self, texts: list[list[int]]) -> Tensor:
        """(texts, 3) fp32 on the device; where its memory ends, in halves, and in smaller batches from then on."""
        try:
            return self._forward(texts)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # which would keep what the batch took while its halves run
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(texts) == 1:
            why = f"one text of {len(texts[0])} tokens does not fit the memory left on {self.device}; free some"
            raise ModelOutOfMemory(self.name, why) from failure
        self.tokens_per_batch = max(self.max_tokens, min(self.tokens_per_batch, sum(map(len, texts))) // 2)
        log.warning("%s: out of memory on %s; batches of %d tokens", self.name, self.device, self.tokens_per_batch)
        half = len(texts) // 2
        return torch.cat([self._logits(texts[:half]), self._logits(texts[half:])])

    def _readings(self, logits: Tensor) -> Iterator[Reading]:
        finite = logits.isfinite().all(1).tolist()
        rows = logits.softmax(1)[:, self._columns].tolist()
        for (negative, neutral, positive), usable in zip(rows, finite, strict=True):
            yield Reading((negative, neutral, positive)) if usable else Reading(None, NOT_FINITE)


#: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h, in bytes; glibc takes no larger threshold than the last
_MALLOPT: Final = {-1: 1 << 30, -2: 64 << 20, -3: 32 << 20}
_DTYPES: Final[dict[str, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: each layer wants the same megabytes again, and page faults take their time.

    For the whole process; what it keeps is what the largest batches took. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, size in _MALLOPT.items():
        mallopt(option, size)


def _length(item: Encoded) -> int:
    return len(item.ids or ())


def _best_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "fp32"


def _forward_of(model: Any, device: torch.device, precision: Precision) -> Forward:
    if device.type == "cpu" and Packed.takes(model):
        return Packed(model, int8=precision == "int8")
    if precision == "int8":
        quantise(model.base_model)
    return Padded(model.to(device), device, pad_id(model))
