"""Making a bundle: calibration with its provenance written down."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Unpack

import numpy as np

from sarguard.calibration.gate_fit import GateQuality, cross_validate, fit_gate
from sarguard.calibration.recipe import (
    REFERENCE_RECIPE,
    Clip,
    Pair,
    Progress,
    ReadOptions,
    Recipe,
)
from sarguard.calibration.refusal_check import (
    CLIPS,
    TIMES_ALPHA,
    RefusalGain,
    measure_refusal,
)
from sarguard.calibration.states import CalibrationStates, calibration_states
from sarguard.calibration.tiers import tier_rules
from sarguard.calibration.vectors import check_pair_count, refusal_vectors
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import (
    BundleCard,
    GateCard,
    RefusalCard,
    SteeringBundle,
    TierCard,
    describe_model,
)
from sarguard.steering.gate import Gate
from sarguard.steering.vectors import RefusalVectors, vectors_digest

# The paper's coefficient. It does not carry over between models: the norms of their
# states and vectors differ.
ALPHA = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """What calibration computed from its states."""

    vectors: RefusalVectors
    gate: Gate
    quality: GateQuality
    """What cross-validation over the pairs says of the gate."""


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
    found = fit_states(calibration_states(loaded, pairs, recipe, **reading), recipe)
    gain = None
    if needs_refusal:
        clips = [pair.harmful for pair in pairs[:CLIPS]]
        gain = measure_refusal(
            loaded, found.vectors.ablated, clips, recipe, alpha=TIMES_ALPHA * alpha
        )
        gain.check()
    digest = clips_digest(pairs, reading.get("benign", ()))
    card = _card(loaded, found, recipe, clips=digest, alpha=alpha, gain=gain)
    return SteeringBundle(card=card, vectors=found.vectors, gate=found.gate)


def fit_states(
    states: CalibrationStates, recipe: Recipe = REFERENCE_RECIPE
) -> Calibrated:
    """Compute refusal vectors and a gate from calibration's states.

    Raises:
        InsufficientDataError: There are fewer than `rank` + 1 pairs, or than 3.
        DegenerateDirectionError: A vector vanished or is not finite.
    """
    return Calibrated(
        vectors=refusal_vectors(states, recipe),
        gate=fit_gate(states.matched),
        quality=cross_validate(states.matched),
    )


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
    found: Calibrated,
    recipe: Recipe,
    *,
    clips: str,
    alpha: float,
    gain: RefusalGain | None,
) -> BundleCard:
    """Return the card of what was computed from clips with a digest."""
    vectors, quality = found.vectors, found.quality
    return BundleCard(
        **describe_model(loaded),
        model_name=loaded.name,
        model_revision=loaded.revision,
        vectors_digest=vectors_digest(vectors.ablated),
        instruction=recipe.instruction,
        refusal=recipe.refusal,
        pairs=quality.pair_count,
        benign=quality.benign_count,
        rank=recipe.rank,
        lam=float(recipe.lam),
        alpha=float(alpha),
        refusal_check=None if gain is None else RefusalCard(**asdict(gain)),
        gate=GateCard(
            first_layer=found.gate.first_layer,
            auc=quality.auc,
            twins_told_apart=quality.pairwise_accuracy,
            harmful_mean=float(quality.harmful.mean()),
            harmful_deviation=float(quality.harmful.std()),
            harmless_mean=float(quality.harmless.mean()),
            harmless_deviation=float(quality.harmless.std()),
        ),
        tiers={
            name: TierCard(**asdict(rule))
            for name, rule in tier_rules(quality, alpha).items()
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
