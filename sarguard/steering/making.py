"""Making a bundle: calibration with its provenance written down."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import BundleCard, SteeringBundle, describe_model
from sarguard.steering.calibration import (
    ABLATION,
    INSTRUCTION,
    RANK,
    REFUSAL,
    Pair,
    Progress,
    calibrate,
)
from sarguard.steering.vectors import RefusalVectors, vectors_digest

ALPHA = 0.1


def make_bundle(
    loaded: LoadedModel,
    pairs: Sequence[Pair],
    *,
    instruction: str = INSTRUCTION,
    refusal: str = REFUSAL,
    rank: int = RANK,
    lam: float = ABLATION,
    alpha: float = ALPHA,
    progress: Progress | None = None,
) -> SteeringBundle:
    """Calibrate a model and return its bundle.

    Args:
        loaded: The model, with no steerer attached.
        pairs: Matched clips at the model's rate.
        instruction: t, the text that accompanies every clip.
        refusal: p, appended to the instruction without a space.
        rank: k, how many safe directions are removed.
        lam: lambda, how much of them is removed.
        alpha: Default dose, kept in the card.
        progress: Called with (pairs done, pairs in all).

    Raises:
        CalibrationError: The vectors cannot be computed.
        ConfigurationError: A setting is out of range.
    """
    vectors = calibrate(
        loaded,
        pairs,
        instruction=instruction,
        refusal=refusal,
        rank=rank,
        lam=lam,
        progress=progress,
    )
    return describe_bundle(
        loaded,
        vectors,
        pairs,
        instruction=instruction,
        refusal=refusal,
        lam=lam,
        alpha=alpha,
    )


def describe_bundle(
    loaded: LoadedModel,
    vectors: RefusalVectors,
    pairs: Sequence[Pair],
    *,
    instruction: str,
    refusal: str,
    lam: float,
    alpha: float,
) -> SteeringBundle:
    """Return a bundle of vectors that were computed from these pairs."""
    card = BundleCard(
        **describe_model(loaded),
        model_name=loaded.name,
        model_revision=loaded.revision,
        vectors_digest=vectors_digest(vectors.ablated),
        instruction=instruction,
        refusal=refusal,
        pairs=len(pairs),
        rank=vectors.explained_variance.shape[-1],
        lam=float(lam),
        alpha=float(alpha),
        calibration_digest=pairs_digest(pairs),
        raw_norms=vectors.raw.norm(dim=-1).tolist(),
        norms=vectors.norms.tolist(),
        state_norms=vectors.state_norms.tolist(),
        cosine=vectors.cosine.tolist(),
        explained_variance=vectors.explained_variance.tolist(),
        sarguard_version=_version("sarguard"),
        transformers_version=_version("transformers"),
        torch_version=_version("torch"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return SteeringBundle(card=card, vectors=vectors)


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the clips that calibration heard, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for kind, clip in (("harmful", pair.harmful), ("safe", pair.safe)):
            digest.update(f"{kind}:{clip.shape[0]}\n".encode())
            digest.update(np.ascontiguousarray(clip, dtype="<f4").tobytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
