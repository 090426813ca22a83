"""Making a bundle: calibration with its provenance written down."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Unpack

import numpy as np

from sarguard.calibration.context_scores import count_contexts
from sarguard.calibration.gate_calibration import (
    CalibratedGate,
    calibrate_gate,
    written_requests,
)
from sarguard.calibration.journal import Journal
from sarguard.calibration.recipe import (
    BATCH_SIZE,
    REFERENCE_RECIPE,
    Clip,
    Pair,
    Progress,
    ReadOptions,
    Recipe,
)
from sarguard.calibration.refusal_check import (
    TIMES_ALPHA,
    RefusalLikelihood,
    check_early,
    measure_refusal,
)
from sarguard.calibration.states import calibration_states
from sarguard.calibration.tiers import tier_rules
from sarguard.calibration.vectors import check_pair_count, refusal_vectors
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import (
    BundleCard,
    ContextCard,
    GateCard,
    RefusalCard,
    ScaleCard,
    SteeringBundle,
    TierCard,
    describe_model,
)
from sarguard.steering.dose import check_alpha
from sarguard.steering.vectors import RefusalVectors, vectors_digest

# The paper's coefficient. It does not carry over between models: the norms of their
# states and vectors differ.
ALPHA = 0.1
# Scores in a card are for rates, and are read by people.
_DIGITS = 3


def calibrate(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    alpha: float = ALPHA,
    needs_refusal: bool = True,
    **reading: Unpack[ReadOptions],
) -> SteeringBundle:
    """Calibrate a model and return its bundle.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Harmful clips and the harmless ones matched to them.
        recipe: Texts, and how much of the safe subspace is removed.
        alpha: Default steering coefficient, kept in the card.
        needs_refusal: Whether the model has to show a refusal that the vectors bring
            out. Unset it only where that is known to be otherwise, as in tests.
        reading: See `ReadOptions`.

    Raises:
        InsufficientDataError: There are fewer than `rank` + 1 pairs, or than 3.
        DegenerateDirectionError: A vector vanished or is not finite.
        NoRefusalError: There is no refusal to extract.
        ConfigurationError: A setting is out of range.
    """
    # Reading the clips takes minutes; a wrong setting should not cost them.
    check_pair_count(len(pairs), recipe)
    check_alpha("alpha", alpha)
    if needs_refusal:
        check_early(loaded, pairs, recipe, alpha=TIMES_ALPHA * alpha)
    batch_size = reading.get("batch_size", BATCH_SIZE)
    benign = reading.get("benign", ())
    digest = clips_digest(pairs, benign)
    with _journal(loaded, recipe, digest, reading) as journal:
        progress = _Progress(
            reading.get("progress"), _prompt_count(loaded, pairs, reading)
        )
        states = calibration_states(
            loaded,
            pairs,
            recipe,
            benign=benign,
            batch_size=batch_size,
            progress=progress.reach,
            journal=journal,
        )
        vectors = refusal_vectors(states, recipe)
        refusal = None
        if needs_refusal:
            refusal = measure_refusal(
                loaded, vectors.ablated, pairs, recipe, alpha=TIMES_ALPHA * alpha
            )
            refusal.check()
        gate = calibrate_gate(
            loaded,
            states,
            pairs,
            benign,
            texts=reading.get("texts"),
            benign_texts=reading.get("benign_texts"),
            batch_size=batch_size,
            after_batch=progress.add,
            journal=journal,
        )
    card = _card(
        loaded, vectors, gate, recipe, clips=digest, alpha=alpha, refusal=refusal
    )
    return SteeringBundle(card=card, vectors=vectors, gate=gate.gate)


def calibrate_now(loaded: LoadedModel, *, progress: bool) -> SteeringBundle:
    """Return a bundle calibrated on the clips that ship with sarguard."""
    from sarguard.datasets import load_benign, load_pairs

    pairs = load_pairs("calibration", sample_rate=loaded.sampling_rate)
    benign = load_benign(sample_rate=loaded.sampling_rate)
    with _progress_bar(shown=progress) as advance:
        return calibrate(loaded, pairs, benign=benign, progress=advance)


def clips_digest(pairs: Sequence[Pair], benign: Sequence[Clip] = ()) -> str:
    """Return the SHA-256 of the clips that calibration read, in order."""
    digest = hashlib.sha256()
    named = [("harmful", pair.harmful) for pair in pairs]
    named += [("safe", pair.safe) for pair in pairs]
    named += [("benign", clip) for clip in benign]
    for kind, clip in named:
        # With its length, or two clips would digest like the one they make together.
        digest.update(f"{kind}:{clip.shape[0]}\n".encode())
        # Little-endian, so that the digest is the same on every machine.
        digest.update(np.ascontiguousarray(clip, dtype="<f4").tobytes())
    return digest.hexdigest()


def _card(
    loaded: LoadedModel,
    vectors: RefusalVectors,
    gate: CalibratedGate,
    recipe: Recipe,
    *,
    clips: str,
    alpha: float,
    refusal: RefusalLikelihood | None,
) -> BundleCard:
    """Return the card of what was computed from clips with a digest."""
    alone = gate.alone
    return BundleCard(
        **describe_model(loaded),
        model_name=loaded.name,
        model_revision=loaded.revision,
        vectors_digest=vectors_digest(vectors.ablated),
        instruction=recipe.instruction,
        refusal=recipe.refusal,
        pairs=alone.pair_count,
        benign=alone.benign_count,
        rank=recipe.rank,
        lam=float(recipe.lam),
        alpha=float(alpha),
        refusal_check=None if refusal is None else RefusalCard(**asdict(refusal)),
        gate=_gate_card(gate),
        tiers={
            name: TierCard(**asdict(rule))
            for name, rule in tier_rules(
                gate.harmless, auc=alone.auc, alpha=alpha
            ).items()
        },
        calibration_digest=clips,
        raw_norms=vectors.raw.norm(dim=-1).tolist(),
        norms=vectors.norms.tolist(),
        state_norms=vectors.state_norms.tolist(),
        cosine=vectors.cosine.tolist(),
        explained_variance=vectors.explained_variance.tolist(),
        sarguard_version=_version("sarguard"),
        transformers_version=_version("transformers"),
        torch_version=_version("torch"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _gate_card(found: CalibratedGate) -> GateCard:
    alone = found.alone
    return GateCard(
        first_layer=found.gate.spoken.first_layer,
        auc=alone.auc,
        twins_told_apart=alone.pairwise_accuracy,
        written_auc=found.written_auc,
        harmful_mean=float(alone.harmful.mean()),
        harmful_deviation=float(alone.harmful.std()),
        harmless_mean=float(alone.harmless.mean()),
        harmless_deviation=float(alone.harmless.std()),
        scales={
            kind: ScaleCard(gain=scale.gain, shift=scale.shift)
            for kind, scale in found.gate.scales.items()
        },
        contexts={
            name: ContextCard(
                harmful=[round(score, _DIGITS) for score in scores.harmful],
                harmless=[round(score, _DIGITS) for score in scores.harmless],
            )
            for name, scores in found.contexts.items()
        },
    )


def _prompt_count(
    loaded: LoadedModel, pairs: Sequence[Pair], reading: ReadOptions
) -> int:
    """Return how much calibration reads: clips, texts, and conversations."""
    benign = reading.get("benign", ())
    asked, harmless = written_requests(
        pairs, reading.get("texts"), reading.get("benign_texts")
    )
    clips, texts = 2 * len(pairs) + len(benign), 2 * len(asked) + len(harmless)
    return clips + texts + count_contexts(loaded, pairs, benign, asked)


def _journal(
    loaded: LoadedModel, recipe: Recipe, clips: str, reading: ReadOptions
) -> Journal:
    """Return what keeps the readings of exactly this calibration."""
    directory = reading.get("journal")
    if directory is None:
        return Journal()
    return Journal(
        directory,
        {
            **{name: str(value) for name, value in describe_model(loaded).items()},
            "dtype": str(loaded.dtype),
            "device": loaded.device.type,
            "clips": clips,
            "recipe": repr(recipe),
            "features": repr(getattr(loaded.processor, "feature_extractor", None)),
            "code": _code_digest(),
            "batch_size": str(reading.get("batch_size", BATCH_SIZE)),
            **{name: _version(name) for name in ("sarguard", "transformers", "torch")},
        },
    )


@cache
def _code_digest() -> str:
    """Return a digest of this package's own code: a version covers many commits."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Progress:
    """One count of progress over parts that each count their own."""

    def __init__(self, report: Progress | None, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def reach(self, done: int, _total: int) -> None:
        """Take how much the first part has done."""
        self.add(done - self._done)

    def add(self, done: int) -> None:
        """Take how much more was done."""
        self._done += done
        if self._report is not None:
            self._report(self._done, self._total)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    # On stderr: stdout is for what a command gives out.
    with Bar(console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("Calibrating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
