"""Choosing the next token, with the fields of RKLLMSamplingParam.

The order is that of the public llama.cpp, whose names the vendor's fields have: penalties, top_k, top_p, temperature,
then one draw; or penalties, temperature and mirostat, which takes the place of top_k and top_p.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm.errors import OptionError

PENALTY_WINDOW = 64
"""How many of the latest tokens (prompt and answer) the penalties look at."""

MIROSTAT_CANDIDATES = 100
"""Mirostat 1 estimates the shape of the distribution from this many of the likeliest tokens."""


@dataclass(frozen=True)
class SamplingParams:
    """The vendor's sampling fields, under the vendor's names; see `vlm.options.Sampling` for what each does.

    top_k at or below 0 means all tokens; temperature at or below 0 means greedy.
    """

    top_k: int
    top_p: float
    temperature: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float

    def check(self) -> None:
        """Raise OptionError for a value that gives no distribution, with the value in the message."""
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p is {self.top_p:g}, expected more than 0 and at most 1.")
        if not self.repeat_penalty > 0:
            raise OptionError(f"repeat_penalty is {self.repeat_penalty:g}, expected more than 0; 1 is none.")
        if self.mirostat not in (0, 1, 2):
            raise OptionError(f"mirostat is {self.mirostat}, expected 0 (off), 1 or 2.")
        rest = (self.temperature, self.frequency_penalty, self.presence_penalty, self.mirostat_tau, self.mirostat_eta)
        if not all(np.isfinite(rest)):
            raise OptionError(f"temperature, penalties and mirostat's tau and eta must be finite; got {rest}.")


class Sampler:
    """Picks the tokens of one run; remembers the latest ones for the penalties, and mirostat's state.

    seed: the same seed and the same logits give the same tokens; None takes entropy from the system.
    recent: the prompt's tokens, oldest first; only the last PENALTY_WINDOW count.
    """

    def __init__(self, params: SamplingParams, *, seed: int | None = None, recent: Iterable[int] = ()) -> None:
        self.params = params
        self._recent: deque[int] = deque(recent, maxlen=PENALTY_WINDOW)
        self._rng = np.random.default_rng(seed)
        self._mu = 2 * params.mirostat_tau
        self._penalises = params.repeat_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
        self._greedy = params.temperature <= 0 or (params.top_k == 1 and not params.mirostat)

    def pick(self, logits: NDArray[np.float32]) -> int:
        """The next token. logits: float32, shape (vocabulary,); not changed. Raises nothing for finite logits."""
        scores = self._penalised(logits) if self._penalises else logits
        token = int(scores.argmax()) if self._greedy else self._draw(scores)
        self._recent.append(token)
        return token

    @property
    def recent(self) -> tuple[int, ...]:
        """The latest tokens of prompt and answer, oldest first; what the next run of a conversation starts from."""
        return tuple(self._recent)

    def _penalised(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = logits.copy()
        if not self._recent:
            return scores
        counted = Counter(self._recent)
        tokens = np.fromiter(counted.keys(), np.int64, len(counted))
        counts = np.fromiter(counted.values(), np.float32, len(counted))
        seen = scores[tokens]
        repeat = np.float32(self.params.repeat_penalty)
        seen = np.where(seen > 0, seen / repeat, seen * repeat)
        scores[tokens] = seen - counts * self.params.frequency_penalty - self.params.presence_penalty
        return scores

    def _draw(self, scores: NDArray[np.float32]) -> int:
        p = self.params
        if p.mirostat:
            return self._mirostat(scores)
        tokens = _likeliest(scores, p.top_k)
        chances = _softmax(scores[tokens])
        if p.top_p < 1:
            # The first token is always kept; the one that carries the sum over top_p is the last.
            kept = int(np.searchsorted(np.cumsum(chances), p.top_p)) + 1
            tokens = tokens[:kept]
        chances = _softmax(scores[tokens] / p.temperature)
        return int(tokens[self._choose(chances)])

    def _mirostat(self, scores: NDArray[np.float32]) -> int:
        """Mirostat (Basu and others, 2021): keep the surprise of the chosen tokens, in bits, near tau."""
        p = self.params
        tokens = _likeliest(scores, 0)
        chances = _softmax(scores[tokens] / p.temperature)
        if p.mirostat == 1:
            kept = _mirostat_k(chances, self._mu)
        else:
            kept = max(int(np.count_nonzero(-np.log2(np.maximum(chances, 1e-300)) <= self._mu)), 1)
        chances = chances[:kept] / chances[:kept].sum()
        chosen = self._choose(chances)
        surprise = -float(np.log2(chances[chosen]))
        self._mu -= p.mirostat_eta * (surprise - p.mirostat_tau)
        return int(tokens[chosen])

    def _choose(self, chances: NDArray[np.float64]) -> int:
        # The last edge is the sum itself: with it at 0.9999... a draw above it would fall past the end.
        edges = np.cumsum(chances)
        return int(np.searchsorted(edges, self._rng.random() * edges[-1], side="right"))


def _likeliest(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """The `top_k` best tokens (all, if it is 0 or less), best first; equal scores by lower id."""
    if 0 < top_k < scores.size:
        best = np.sort(np.argpartition(-scores, top_k - 1)[:top_k])
        return best[np.argsort(-scores[best], kind="stable")]
    return np.argsort(-scores, kind="stable")


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    raised = np.exp(scores.astype(np.float64) - float(scores.max()))
    return np.asarray(raised / raised.sum())


def _mirostat_k(chances: NDArray[np.float64], mu: float) -> int:
    """How many of the likeliest tokens give a surprise of mu bits, if the distribution is Zipf's."""
    n = chances.size
    m = min(MIROSTAT_CANDIDATES, n)
    if m < 2:
        return 1
    ranks = np.arange(1, m, dtype=np.float64)
    t = np.log((ranks + 1) / ranks)
    b = -np.diff(np.log(np.maximum(chances[:m], 1e-300)))
    s = float((t * b).sum() / (t * t).sum())
    epsilon = s - 1
    if abs(epsilon) < 1e-6 or s <= 0:
        return n  # so flat, or so exactly Zipf's, that the formula has no value
    # By logarithms: mu grows with every token that surprises less than tau, beyond what a power of two can hold.
    log_k = (np.log(epsilon / (1 - float(n) ** -epsilon)) + mu * np.log(2)) / s
    return n if log_k >= np.log(n) else max(round(float(np.exp(log_k))), 1)
