"""Calibrating a gate over contexts, so that a score means the same in each of them.

Some of the calibration's requests are read in every context, in all kinds of reading
that a request is read in, and scored by probes that were fitted without them. With m
and d the mean and deviation of harmless clips read alone, d_k the largest deviation of
harmless readings of kind k in any context, and t_k the largest mean + 2 deviations,

    score_k(h) = m + 2 d + d (raw_k(h) - t_k) / d_k

so that in no context a kind of reading is more likely to pass a threshold of 2
deviations on a harmless request than a clip alone is. The strongest of its readings is
what a request scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sarguard.calibration.contexts import SPOKEN, WRITTEN
from sarguard.calibration.gate_fit import CrossFit, GateQuality
from sarguard.calibration.journal import Journal, name_of
from sarguard.calibration.recipe import Clip, Pair, TextPair
from sarguard.decoding.request_reader import read_canonical
from sarguard.decoding.session_memory import ClipCache
from sarguard.models.inputs import takes_clips
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import ReadingKind
from sarguard.steering.gate import READING_KINDS, WRITTEN_KINDS, ReadingScale
from sarguard.types import Turn

PAIRS = 16
"""Most pairs that are read in every context, and most other harmless clips."""
_ONE_IN = 6
# All contexts of a clip.
_TOGETHER = 16
# A kind of reading that never varies has no deviation to divide by.
_MIN_DEVIATION = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextRequest:
    """A request in a context, and the raw scores of its readings."""

    context: str
    harmful: bool
    raw: Mapping[ReadingKind, float]
    """The highest of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextScores:
    """What requests scored in one context, strongest reading each, ascending."""

    harmful: tuple[float, ...]
    harmless: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfFold:
    """Probes that score a request without having seen it."""

    spoken: CrossFit
    written: CrossFit
    texts: Sequence[TextPair]
    """What `written` was fitted to, in its order."""

    def score(self, states: Tensor, kind: ReadingKind, place: int) -> float:
        """Return the raw score of one reading's states, shape (L, D)."""
        fitted = self.written if kind in WRITTEN_KINDS else self.spoken
        return float(fitted.without(place).score(states[:, None]))


def read_contexts(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    benign: Sequence[Clip],
    probes: OutOfFold,
    *,
    batch_size: int = _TOGETHER,
    after_batch: Callable[[int], None] = lambda conversations: None,
    journal: Journal | None = None,
) -> list[ContextRequest]:
    """Read requests in every context and return the raw scores of their readings.

    Args:
        loaded: The model, with no steerer attached.
        pairs: The calibration's pairs; a sixth of them is read, `PAIRS` at most.
        benign: Its other harmless clips; as many.
        probes: What scores them.
        batch_size: Maximum number of conversations that are read together.
        after_batch: Called with how many conversations were read.
        journal: Keeps what was read.
    """
    found: list[ContextRequest] = []
    kept = journal or Journal()
    # A clip stands in many contexts, and its encoder runs once.
    clips = ClipCache()

    def read(group: Sequence[_Asked]) -> dict[str, Tensor]:
        asked = [request.turns for request in group]
        rows = read_canonical(loaded, asked, batch_size=batch_size, memory=clips)
        return {
            f"{row} {number} {reading.kind}": reading.states.cpu()
            for row, readings in enumerate(rows)
            for number, reading in enumerate(readings)
        }

    folds = len(probes.spoken.probes)
    for group in _groups(loaded, pairs, benign, probes.texts, folds):
        name = name_of("contexts", [request.turns for request in group])
        raw: list[dict[ReadingKind, float]] = [{} for _ in group]
        for key, states in kept.once(name, partial(read, group)).items():
            row, _, said = key.split(" ")
            kind = next(kind for kind in READING_KINDS if kind == said)
            score = probes.score(states, kind, group[int(row)].place)
            best = raw[int(row)]
            best[kind] = max(score, best.get(kind, score))
        found += [
            ContextRequest(context=one.context, harmful=one.harmful, raw=scores)
            for one, scores in zip(group, raw, strict=True)
        ]
        after_batch(len(group))
    return found


def count_contexts(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    benign: Sequence[Clip],
    texts: Sequence[TextPair],
) -> int:
    """Return how many conversations `read_contexts` reads."""
    return sum(map(len, _groups(loaded, pairs, benign, texts, 1)))


def fit_scales(
    requests: Sequence[ContextRequest], alone: GateQuality
) -> dict[ReadingKind, ReadingScale]:
    """Return the scale of every kind of reading that was read.

    Args:
        requests: What `read_contexts` gave.
        alone: Out-of-fold scores of clips read alone, which other kinds are made
            comparable with.
    """
    middle, spread = _moments(alone.harmless)
    raw: dict[ReadingKind, dict[str, list[float]]] = {}
    for request in requests:
        if not request.harmful:
            for kind, score in request.raw.items():
                raw.setdefault(kind, {}).setdefault(request.context, []).append(score)
    scales: dict[ReadingKind, ReadingScale] = {"clip": ReadingScale()}
    for kind, contexts in raw.items():
        if kind == "clip":
            continue
        found = [_moments(torch.tensor(scores)) for scores in contexts.values()]
        # The deviation apart from the top: a text that is the same in all requests of
        # a context has none there.
        gain = spread / max(deviation for _, deviation in found)
        top = max(mean + 2 * deviation for mean, deviation in found)
        scales[kind] = ReadingScale(gain=gain, shift=middle + 2 * spread - gain * top)
    return scales


def strongest(
    requests: Sequence[ContextRequest], scales: Mapping[ReadingKind, ReadingScale]
) -> dict[str, ContextScores]:
    """Return what requests score in every context."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for request in requests:
        score = max(
            raw * scales[kind].gain + scales[kind].shift
            for kind, raw in request.raw.items()
        )
        found.setdefault(request.context, ([], []))[not request.harmful].append(score)
    return {
        context: ContextScores(
            harmful=tuple(sorted(harmful)), harmless=tuple(sorted(harmless))
        )
        for context, (harmful, harmless) in found.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    context: str
    harmful: bool
    turns: tuple[Turn, ...]
    place: int
    """The request's place among those that a probe was fitted to."""


def _groups(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    benign: Sequence[Clip],
    texts: Sequence[TextPair],
    folds: int,
) -> Iterator[list[_Asked]]:
    """Yield the contexts of each request."""
    # A small calibration is for a quick look: what it is given bounds what it reads.
    used = min(PAIRS, max(2, len(pairs) // _ONE_IN), len(pairs))
    rows = [(True, pairs[i].harmful, i) for i in range(used)]
    rows += [(False, pairs[i].safe, i) for i in range(used)]
    rows += [(False, clip, j) for j, clip in enumerate(benign[:used])]
    for harmful, clip, place in rows:
        one, two = _neighbours(pairs, place, folds)
        made = {name: spoken(clip, one, two) for name, spoken in SPOKEN.items()}
        yield [
            _Asked(context=name, harmful=harmful, turns=turns, place=place)
            for name, turns in made.items()
            if takes_clips(loaded, turns)
        ]
    for place, text in enumerate(texts[:used]):
        one, _ = _neighbours(pairs, place, folds)
        yield [
            _Asked(
                context=name, harmful=harmful, turns=written(words, one), place=place
            )
            for name, written in WRITTEN.items()
            for harmful, words in ((True, text.harmful), (False, text.safe))
        ]


def _neighbours(pairs: Sequence[Pair], place: int, folds: int) -> tuple[Clip, Clip]:
    """Return two harmless clips that the request's probes were not fitted to either.

    A neighbour that its probe knows would score lower than one of a caller's.
    """
    alike = [i for i in range(place % folds, len(pairs), folds) if i != place]
    # With a handful of pairs a fold has no others.
    chosen = alike or [i for i in range(len(pairs)) if i != place]
    at = place // folds
    return pairs[chosen[at % len(chosen)]].safe, pairs[
        chosen[(at + 1) % len(chosen)]
    ].safe


def _moments(scores: Tensor) -> tuple[float, float]:
    deviation = float(scores.std()) if len(scores) > 1 else 0.0
    return float(scores.mean()), max(deviation, _MIN_DEVIATION)
