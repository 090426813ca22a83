"""Which steering bundle a model gets: one that is given, or the reference model's."""

from __future__ import annotations

import os
from pathlib import Path

from sarguard.errors import ArtifactNotFoundError
from sarguard.option_values import as_path
from sarguard.steering.bundle import SteeringBundle

REFERENCE = "reference"


def choose_bundle(
    name: str,
    bundle: str | os.PathLike[str] | SteeringBundle | None,
    *,
    calibrate: bool,
) -> SteeringBundle | None:
    """Return the bundle to use, or None where it is still to be calibrated.

    It is loaded before the model: a wrong path should fail before a long load.

    Raises:
        ArtifactNotFoundError: There is no bundle, and `calibrate` is not set.
    """
    if bundle is not None:
        return open_bundle(bundle)
    if calibrate:
        return None
    if name == REFERENCE:
        return open_bundle(Path(__file__).parent / "reference" / "bundle")
    raise ArtifactNotFoundError(
        f"no steering bundle for {name}. Make one with: sarguard calibrate {name} -o "
        'bundle/ and name it, with bundle="bundle/" in Python or --bundle bundle/ on '
        "the command line; in Python, calibrate=True calibrates now, which takes "
        "minutes"
    )


def open_bundle(bundle: str | os.PathLike[str] | SteeringBundle) -> SteeringBundle:
    """Return a bundle given as an object or by its directory."""
    if isinstance(bundle, SteeringBundle):
        return bundle
    return SteeringBundle.load(as_path("bundle", bundle, ArtifactNotFoundError))


def reference_path(*, progress: bool) -> Path:
    """Return the reference model's checkpoint, assembled if needed."""
    from sarguard.reference.assemble import ensure_reference

    return ensure_reference(progress=progress)
