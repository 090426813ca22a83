"""Loading the model and the bundle that a command names."""

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
        ReferenceModelError: The embedded model cannot be assembled.
    """
    from transformers.utils import logging

    from sarguard.bundles import REFERENCE, reference_path
    from sarguard.cli.screen import working
    from sarguard.models.loading import load_model

    name: str = options.model
    path = reference_path(progress=True) if name == REFERENCE else name
    # The progress bars of transformers have no environment variable.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
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
    """Return the model that `options.model` names and its bundle.

    Raises:
        ArtifactNotFoundError: There is no bundle.
        ArtifactMismatchError: The bundle was made for another model.
        UnsupportedModelError: The model cannot be found or cannot be guarded.
    """
    from sarguard.bundles import choose_bundle

    # Only `calibrate=True` gives None. A missing bundle is found before the model,
    # which takes longer, is loaded.
    bundle = cast(
        "SteeringBundle", choose_bundle(options.model, options.bundle, calibrate=False)
    )
    loaded = open_model(options)
    bundle.check(loaded)
    return loaded, bundle
