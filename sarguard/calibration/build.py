"""Making a bundle: calibration with its provenance written down."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from sarguard.calibration.recipe import REFERENCE_RECIPE, Recipe
from sarguard.calibration.refusal_check import (
    CLIPS,
    TIMES_ALPHA,
    RefusalGain,
    measure_refusal,
)
from sarguard.calibration.states import BATCH_SIZE
from sarguard.calibration.tiers import tier_rules
from sarguard.calibration.vectors import Calibrated, Pair, Progress, calibrate
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import (
    BundleCard,
    GateCard,
    SteeringBundle,
    TierCard,
    describe_model,
)
from sarguard.steering.card_parts import RefusalCard
from sarguard.steering.vectors import vectors_digest

ALPHA = 0.1


def make_bundle(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    recipe: Recipe = REFERENCE_RECIPE,
    *,
    benign: Sequence[NDArray[np.float32]] = (),
    alpha: float = ALPHA,
    batch_size: int = BATCH_SIZE,
    needs_refusal: bool = True,
    progress: Progress | None = None,
) -> SteeringBundle:
    """Calibrate a model and return its bundle.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Matched clips at the model's rate.
        recipe: What is asked, and how much of the safe subspace is removed.
        benign: Harmless clips without a twin, for the gate.
        alpha: Default dose, kept in the card.
        batch_size: Most clips that are read together.
        needs_refusal: Whether the model has to show a refusal that the vectors bring
            out. Unset it only where that is known to be otherwise, as in tests.
        progress: Called with (clips done, all of them).

    Raises:
        CalibrationError: The vectors or the gate cannot be computed.
        NoRefusalError: There is no refusal to extract.
        ConfigurationError: A setting is out of range.
    """
    found = calibrate(
        loaded, pairs, recipe, benign=benign, batch_size=batch_size, progress=progress
    )
    gain = None
    if needs_refusal:
        clips = [pair.harmful for pair in pairs[:CLIPS]]
        gain = measure_refusal(
            loaded, found.vectors.ablated, clips, recipe, alpha=TIMES_ALPHA * alpha
        )
        gain.check()
    heard = clips_digest(pairs, benign)
    return describe_bundle(loaded, found, recipe, heard=heard, alpha=alpha, gain=gain)


def describe_bundle(
    loaded: LoadedModel,
    found: Calibrated,
    recipe: Recipe,
    *,
    heard: str,
    alpha: float,
    gain: RefusalGain | None = None,
) -> SteeringBundle:
    """Return a bundle of what calibration found on clips with the digest `heard`."""
    vectors, quality = found.vectors, found.quality
    card = BundleCard(
        **describe_model(loaded),
        model_name=loaded.name,
        model_revision=loaded.revision,
        vectors_digest=vectors_digest(vectors.ablated),
        instruction=recipe.instruction,
        refusal=recipe.refusal,
        pairs=quality.pairs,
        benign=quality.extra,
        rank=recipe.rank,
        lam=float(recipe.lam),
        alpha=float(alpha),
        refusal_check=None if gain is None else RefusalCard(**asdict(gain)),
        gate=_describe_gate(found),
        tiers={
            name: TierCard(**asdict(rule))
            for name, rule in tier_rules(quality, alpha).items()
        },
        calibration_digest=heard,
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
    return SteeringBundle(card=card, vectors=vectors, gate=found.gate)


def clips_digest(
    pairs: Sequence[Pair], benign: Sequence[NDArray[np.float32]] = ()
) -> str:
    """Return the SHA-256 of the clips that calibration heard, in order."""
    digest = hashlib.sha256()
    named = [("harmful", pair.harmful) for pair in pairs]
    named += [("safe", pair.safe) for pair in pairs]
    named += [("benign", clip) for clip in benign]
    for kind, clip in named:
        digest.update(f"{kind}:{clip.shape[0]}\n".encode())
        digest.update(np.ascontiguousarray(clip, dtype="<f4").tobytes())
    return digest.hexdigest()


def _describe_gate(found: Calibrated) -> GateCard:
    quality = found.quality
    return GateCard(
        first_layer=found.gate.first_layer,
        auc=quality.auc,
        twins_told_apart=quality.twins_told_apart,
        harmful_mean=float(quality.harmful.mean()),
        harmful_deviation=float(quality.harmful.std()),
        harmless_mean=float(quality.harmless.mean()),
        harmless_deviation=float(quality.harmless.std()),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
