"""Making a gate: its probes, and their scales over contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from sarguard.calibration.context_scores import (
    ContextScores,
    OutOfFold,
    fit_scales,
    read_contexts,
    strongest,
)
from sarguard.calibration.gate_fit import (
    GateQuality,
    cross_fit,
    cross_validate,
    fit_probe,
)
from sarguard.calibration.journal import Journal
from sarguard.calibration.recipe import BATCH_SIZE, Clip, Pair, TextPair
from sarguard.calibration.states import CalibrationStates
from sarguard.calibration.written import written_states
from sarguard.models.loading import LoadedModel
from sarguard.steering.gate import Gate

# As many for each pair of clips: a small calibration, such as a test's, stays small.
_TEXTS_PER_PAIR = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibratedGate:
    """A gate, and what cross-validation says of it."""

    gate: Gate
    alone: GateQuality
    """Out-of-fold scores of clips read alone."""
    written_auc: float
    """Chance that a harmful text outscores a harmless one."""
    contexts: Mapping[str, ContextScores]
    """What requests scored in each context, the strongest of their readings."""

    @property
    def harmless(self) -> tuple[Tensor, ...]:
        """Return what harmless requests scored in each context."""
        return tuple(torch.tensor(found.harmless) for found in self.contexts.values())


def calibrate_gate(
    loaded: LoadedModel,
    states: CalibrationStates,
    pairs: Sequence[Pair],
    benign: Sequence[Clip] = (),
    *,
    texts: Sequence[TextPair] | None = None,
    benign_texts: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[int], None] = lambda prompts: None,
    journal: Journal | None = None,
) -> CalibratedGate:
    """Fit a gate to calibration's states, and calibrate it over contexts.

    Args:
        loaded: The model, with no steerer attached.
        states: What `calibration_states` read of the same clips.
        pairs: The clips.
        benign: Harmless clips without a match.
        texts: Written requests; those that ship if not given.
        benign_texts: Harmless texts without a match, instructions among them; those
            that ship if not given.
        batch_size: Maximum number of requests that are read together.
        after_batch: Called with how many texts or conversations were read.
        journal: Keeps what was read.

    Raises:
        InsufficientDataError: There are fewer than 3 pairs.
        DegenerateDirectionError: Harmful and harmless requests do not differ.
    """
    spoken = cross_fit(states.matched)
    asked, harmless = written_requests(pairs, texts, benign_texts)
    matched = written_states(
        loaded,
        asked,
        harmless,
        batch_size=batch_size,
        after_batch=after_batch,
        journal=journal,
    )
    written = cross_fit(matched)
    probes = OutOfFold(spoken=spoken, written=written, texts=asked)
    alone = cross_validate(states.alone, fitted=spoken)
    found = read_contexts(
        loaded, pairs, benign, probes, after_batch=after_batch, journal=journal
    )
    scales = fit_scales(found, alone)
    return CalibratedGate(
        gate=Gate(
            spoken=fit_probe(states.matched),
            written=fit_probe(matched),
            scales=scales,
        ),
        alone=alone,
        written_auc=cross_validate(matched, fitted=written).auc,
        contexts=strongest(found, scales),
    )


def written_requests(
    pairs: Sequence[Pair],
    texts: Sequence[TextPair] | None,
    benign_texts: Sequence[str] | None,
) -> tuple[Sequence[TextPair], Sequence[str]]:
    """Return what the probe for writing is fitted to: pairs, and other harmless texts.

    Those that ship where none are given, as many as go with so many clips.
    """
    most = _TEXTS_PER_PAIR * len(pairs)
    asked = texts if texts is not None else _shipped_pairs()[:most]
    harmless = benign_texts if benign_texts is not None else _shipped_benign()[:most]
    return asked, harmless


def _shipped_pairs() -> list[TextPair]:
    from sarguard.datasets.texts import load_texts

    rows = [text for text in load_texts() if text.split == "calibration" and text.pair]
    safe = {text.pair: text.text for text in rows if text.kind == "safe"}
    return [
        TextPair(harmful=text.text, safe=safe[text.pair])
        for text in rows
        if text.kind == "harmful"
    ]


def _shipped_benign() -> list[str]:
    """Return harmless texts, instructions and requests in turn."""
    from sarguard.datasets.pairs import BENIGN
    from sarguard.datasets.texts import load_instructions, load_texts

    # Fitted to requests alone, a probe takes an order such as "Answer the caller." for
    # one: it scored that 0.8, as much as many harmful ones, and -1.0 with these.
    requests = [text.text for text in load_texts() if text.split in BENIGN]
    both = zip_longest(load_instructions(), requests)
    return [text for pair in both for text in pair if text is not None]
