"""Opening the model and the bundle that a command names."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sarguard.models.loading import LoadedModel
    from sarguard.steering.bundle import SteeringBundle


def open_model(options: argparse.Namespace) -> LoadedModel:
    """Return the model that `options.model` names, not guarded.

    Raises:
        UnsupportedModelError: It cannot be found or cannot be guarded.
        ReferenceModelError: The embedded model cannot be put together.
    """
    from sarguard.bundles import REFERENCE, reference_path
    from sarguard.cli.quiet import quiet_transformers
    from sarguard.cli.screen import working
    from sarguard.models.loading import load_model

    name: str = options.model
    path = reference_path(progress=True) if name == REFERENCE else name
    quiet_transformers()
    with working(f"Loading {name}"):
        loaded = load_model(
            path,
            device_map=options.device_map,
            dtype=options.dtype,
            revision=options.revision,
            decoder_layers=options.decoder_layers,
        )
    return replace(loaded, name=name)


def open_model_and_bundle(
    options: argparse.Namespace,
) -> tuple[LoadedModel, SteeringBundle]:
    """Return the model that `options.model` names with a bundle made for it.

    Raises:
        ArtifactNotFoundError: There is no bundle.
        ArtifactMismatchError: The bundle was made for another model.
        UnsupportedModelError: The model cannot be found or cannot be guarded.
    """
    from sarguard.bundles import choose_bundle

    # None would stand for calibrating on the spot, which was not asked for.
    chosen = cast(
        "SteeringBundle", choose_bundle(options.model, options.bundle, calibrate=False)
    )
    loaded = open_model(options)
    chosen.check(loaded)
    return loaded, chosen
