"""Counter-based randomness: every draw is a function of (key, counter), so it is the same however it is asked for.

SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) over NumPy arrays: the same construction as Philox's counter mode, and
unlike ``numpy.random.Philox`` one call serves many keys at once, which is what a market of 340 assets needs.
Variates come from quantile tables of 65,536 entries, indexed with 16 bits of a word.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]
BoolArray = NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key_of(*parts: str | int) -> int:
    """A 64-bit key of names and numbers, stable over processes and versions of Python."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def unit_of(*parts: str | int) -> float:
    """A number in [0, 1) that belongs to ``parts``."""
    return (key_of(*parts) >> 11) / (1 << 53)


def mix(words: WordArray) -> WordArray:
    """SplitMix64's finaliser, element by element."""
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def subkeys(keys: WordArray, counters: Any) -> WordArray:
    """A key of its own for each (key, counter); the two broadcast."""
    # Mixed twice with different offsets: neighbouring counters of neighbouring keys share no sequence.
    counter = np.atleast_1d(np.asarray(counters, dtype=np.int64)).astype(np.uint64)
    return mix(mix(np.atleast_1d(keys) + _GOLDEN) ^ (counter * _MIX_2 + _GOLDEN))


def draws(keys: WordArray, count: int) -> NDArray[np.uint16]:
    """``count`` 16-bit draws for each key: shape ``keys.shape + (count,)``."""
    words = -(-count // 4)
    counters = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
    # Little-endian on every machine, so that the same draws follow from the same words.
    raw = mix(keys[..., None] + counters).astype("<u8", copy=False).view("<u2")
    return raw[..., :count]


_UNIFORM: FloatArray = (np.arange(65_536) + 0.5) / 65_536


def _student_t4() -> FloatArray:
    """Quantiles of Student's t with 4 degrees of freedom, in closed form (Shaw 2006), scaled to variance 1."""
    alpha = 4 * _UNIFORM * (1 - _UNIFORM)
    q = np.cos(np.arccos(np.sqrt(alpha)) / 3) / np.sqrt(alpha)
    quantile: FloatArray = np.sign(_UNIFORM - 0.5) * 2 * np.sqrt(np.maximum(q - 1, 0)) / np.sqrt(2)
    return quantile


#: uniform on (0, 1)
UNIFORM: FloatArray = _UNIFORM
#: Student t, 4 degrees of freedom, variance 1: the fat tails of returns
STUDENT: FloatArray = _student_t4()
#: logistic, variance 1: close to normal, and has a closed form
LOGISTIC: FloatArray = np.log(_UNIFORM / (1 - _UNIFORM)) * (np.sqrt(3) / np.pi)
#: exponential, mean 1
EXPONENTIAL: FloatArray = -np.log1p(-_UNIFORM)
