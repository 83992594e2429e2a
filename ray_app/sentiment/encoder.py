"""A forward pass for BERT and RoBERTa classifiers that does only what their answer needs.

Exactly the arithmetic of transformers' ``BertForSequenceClassification`` and ``RobertaForSequenceClassification`` (a
test holds the two within 1e-5), reordered for a processor with few cores, where a multiplication wasted is time lost:

* **Nothing is padded.** The texts of a batch lie one after another, (tokens, hidden); the linear layers, nine tenths of
  the work, do not care where one ends. Only attention does: it runs once for each run of equally long texts.
* **The last layer computes the first token only** ([CLS]): the classifier looks at no other. Its keys and values are
  never computed either (see :class:`FirstToken`): one layer, a sixth of a model with six, costs next to nothing.
* **Query, key and value are one product.**

Other architectures, and GPUs (where many small attentions cost more than padding), take transformers' own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_app.sentiment.int8 import Int8Linear

#: transformers' class → the name of its encoder and whether its positions count from the padding id
PACKABLE: Final = {"BertForSequenceClassification": "bert", "RobertaForSequenceClassification": "roberta"}


class Forward(Protocol):
    """Token ids of a batch of texts → logits (texts, classes) in fp32. The ids include the special tokens."""

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Run the model; raises what torch raises where memory ends."""
        ...

    def cost(self, texts: int, longest: int, total: int) -> int:
        """How many tokens are computed for ``texts`` texts with ``total`` tokens of their own."""
        ...


class Padded:
    """transformers' own forward, each batch padded to its longest text."""

    def __init__(self, model: nn.Module, device: torch.device, pad_id: int) -> None:
        self._model = model
        self._device = device
        self._pad_id = pad_id

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, texts))
        ids = torch.full((len(texts), longest), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        logits: Tensor = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
        return logits.float()

    def cost(self, texts: int, longest: int, total: int) -> int:  # noqa: ARG002 - one protocol
        """Padding counts."""
        return texts * longest


class Run(NamedTuple):
    """``texts`` equally long texts in a row, from token ``start`` on."""

    start: int
    texts: int
    length: int


class Attention(Protocol):
    """What the asking rows of ``hidden`` learn of their texts' tokens, in the shape of ``asking``."""

    def __call__(self, hidden: Tensor, asking: Tensor, runs: Sequence[Run]) -> Tensor:
        """``hidden``: (tokens, hidden); ``runs`` cover it without gaps."""
        ...


class Layer(NamedTuple):
    """One layer's parts, in the order of their use."""

    attention: Attention
    attention_out: nn.Module
    attention_norm: nn.Module
    widen: nn.Module
    narrow: nn.Module
    norm: nn.Module

    def __call__(self, hidden: Tensor, asking: Tensor, runs: Sequence[Run]) -> Tensor:
        """``asking``: those rows of ``hidden`` whose next form is wanted, and comes back."""
        middle = self.attention_norm(self.attention_out(self.attention(hidden, asking, runs)).add_(asking))
        wide = torch.ops.aten.gelu_(self.widen(middle))
        out: Tensor = self.norm(self.narrow(wide).add_(middle))
        return out


class EveryToken:
    """Each token asks the tokens of its text; ``asking`` is ``hidden``."""

    def __init__(self, attention: Any, linear: Any) -> None:
        parts = (attention.query, attention.key, attention.value)
        qkv = nn.Linear(1, 1, device="meta")  # a shell for the three weights, without allocating a fourth
        qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
        qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]), requires_grad=False)
        self._qkv = linear(qkv, overwrite=False)
        self._heads = attention.num_attention_heads

    def __call__(self, hidden: Tensor, asking: Tensor, runs: Sequence[Run]) -> Tensor:  # noqa: ARG002 - one protocol
        qkv = self._qkv(hidden)
        width = hidden.shape[1]
        parts = []
        for start, texts, length in runs:
            block = qkv[start : start + texts * length].view(texts, length, 3, self._heads, width // self._heads)
            query, key, value = block.permute(2, 0, 3, 1, 4)
            parts.append(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(-1, width))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class FirstToken:
    """Each text's first token asks the tokens of its text.

    With so few questions the products are cheaper in another order. Of a head's question q and a token x:
    q · (K x + k) = (Kᵀ q) · x + q · k, where the last term is the same for all tokens and leaves the softmax as it is;
    and with weights p that sum to 1, Σ p (V x + v) = V (Σ p x) + v. No product is left that every token takes part in.
    """

    def __init__(self, attention: Any) -> None:
        self._heads = attention.num_attention_heads
        self._query = attention.query
        width = attention.key.in_features
        self._keys = attention.key.weight.detach().view(self._heads, -1, width)
        self._values = attention.value.weight.detach().view(self._heads, -1, width).transpose(1, 2)
        self._bias = attention.value.bias.detach()

    def __call__(self, hidden: Tensor, asking: Tensor, runs: Sequence[Run]) -> Tensor:
        query = self._query(asking).view(len(asking), self._heads, -1)
        asked = (query.transpose(0, 1) @ self._keys).transpose(0, 1)  # texts, heads, hidden
        scale = query.shape[2] ** -0.5
        means, done = [], 0
        for start, texts, length in runs:
            block = hidden[start : start + texts * length].view(texts, length, -1)
            weights = (asked[done : done + texts] @ block.transpose(1, 2) * scale).softmax(2)
            means.append(weights @ block)
            done += texts
        answer = torch.cat(means).transpose(0, 1) @ self._values  # heads, texts, hidden / heads
        placed: Tensor = answer.transpose(0, 1).reshape(asking.shape) + self._bias
        return placed


class Packed:
    """The forward of the module's docstring, on the CPU. Takes the parts it needs and keeps no more of the model."""

    def __init__(self, model: Any, *, int8: bool) -> None:
        name = PACKABLE[type(model).__name__]
        encoder = getattr(model, name)
        config = model.config
        self._embeddings = encoder.embeddings
        self._pad_id = config.pad_token_id if name == "roberta" else None
        linear = Int8Linear if int8 else _keep
        *layers, last = encoder.encoder.layer
        self._layers = [_layer(layer, EveryToken(layer.attention.self, linear), linear) for layer in layers]
        self._last = _layer(last, FirstToken(last.attention.self), _keep)
        if name == "bert":
            self._head = (encoder.pooler.dense, model.classifier)
        else:
            self._head = (model.classifier.dense, model.classifier.out_proj)

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether this class computes what the model would."""
        config = model.config
        return (
            type(model).__name__ in PACKABLE
            and config.hidden_act == "gelu"
            and not config.is_decoder
            and getattr(config, "position_embedding_type", "absolute") in {"absolute", None}
        )

    def __call__(self, texts: Sequence[Sequence[int]]) -> Tensor:
        lengths = [len(text) for text in texts]
        ids = torch.tensor(list(chain.from_iterable(texts)))
        ends = torch.tensor(lengths).cumsum(0)
        firsts = ends - torch.tensor(lengths)
        hidden = self._embed(ids, firsts, lengths)
        runs = _runs(lengths)
        for layer in self._layers:
            hidden = layer(hidden, hidden, runs)
        hidden = self._last(hidden, hidden[firsts], runs)
        dense, out = self._head
        logits: Tensor = out(torch.tanh(dense(hidden)))
        return logits.float()

    def cost(self, texts: int, longest: int, total: int) -> int:  # noqa: ARG002 - one protocol
        """Nothing is padded."""
        return total

    def _embed(self, ids: Tensor, firsts: Tensor, lengths: list[int]) -> Tensor:
        e = self._embeddings
        repeats = torch.tensor(lengths)
        if self._pad_id is None:
            positions = torch.arange(len(ids)) - firsts.repeat_interleave(repeats)
        else:  # RoBERTa counts from pad_id + 1 and skips padding ids, which a text may spell out ("<pad>")
            real = (ids != self._pad_id).long()
            counted = real.cumsum(0)
            before = (counted[firsts] - real[firsts]).repeat_interleave(repeats)
            positions = (counted - before) * real + self._pad_id
        hidden = e.word_embeddings(ids) + e.token_type_embeddings.weight[0] + e.position_embeddings(positions)
        normed: Tensor = e.LayerNorm(hidden)
        return normed


def _runs(lengths: list[int]) -> list[Run]:
    runs, start = [], 0
    for length, group in groupby(lengths):
        texts = sum(1 for _ in group)
        runs.append(Run(start, texts, length))
        start += texts * length
    return runs


def _layer(layer: Any, attention: Attention, linear: Any) -> Layer:
    return Layer(
        attention,
        linear(layer.attention.output.dense, overwrite=True),
        layer.attention.output.LayerNorm,
        linear(layer.intermediate.dense, overwrite=False),
        linear(layer.output.dense, overwrite=True, after_gelu=True),
        layer.output.LayerNorm,
    )


def _keep(linear: nn.Linear, *, overwrite: bool, after_gelu: bool = False) -> nn.Module:  # noqa: ARG001 - as Int8Linear
    return linear
