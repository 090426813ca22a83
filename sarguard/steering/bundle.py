"""Refusal vectors on disk: safetensors beside a card that says what they are.

    bundle/
      vectors.safetensors    raw, ablated, explained_variance, state_norms,
                             spoken_directions, spoken_offsets,
                             written_directions, written_offsets
      card.json              provenance, and a digest over both files

The digest catches damage and half-done edits. It is no signature: somebody who can
write the directory can make another bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from safetensors import SafetensorError
from torch import Tensor

from sarguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigurationError,
)
from sarguard.models.identity import template_digest, weights_digest
from sarguard.models.loading import LoadedModel
from sarguard.steering.dose import DoseRule, ReadingKind
from sarguard.steering.gate import Gate, LinearProbe, ReadingScale
from sarguard.steering.vectors import RefusalVectors, vectors_digest

# The one version that is read: an older bundle is made again, not converted. The names
# of the tensors below are part of the format.
FORMAT_VERSION = 5
VECTORS_FILE = "vectors.safetensors"
CARD_FILE = "card.json"

_TENSORS = ("raw", "ablated", "explained_variance", "state_norms")
_PROBE_TENSORS = ("directions", "offsets")
_PROBES = ("spoken", "written")
_PROBE_PARTS = tuple((probe, part) for probe in _PROBES for part in _PROBE_TENSORS)

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _CardPart(BaseModel):
    # Strict: "0.1" in place of 0.1 is an error, and so is a key that is not known.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RefusalCard(_CardPart):
    """How likely the refusal sentence is, in nats per token."""

    clips: Annotated[int, Field(ge=1)]
    alpha: Positive
    bare: Finite
    """After harmful clips, unsteered."""
    harmless: Finite | None = None
    """After the matched harmless clips; None where it was not measured."""
    steered: Finite
    random: Finite
    """Steered with a random direction of equal norm."""

    @model_serializer(mode="wrap")
    def _as_it_was_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        # A bundle's digest is over the card as it was written.
        if self.harmless is None:
            del values["harmless"]
        return values


class TierMeasure(_CardPart):
    """What a tier did with one set of spoken requests."""

    harmful: Count
    harmless: Count
    """Number of requests."""
    harmful_refused: Share
    """Refused or blocked."""
    benign_added: Change
    """Harmless requests refused, less those that the bare model refuses."""
    safe_added: Change | None = None
    borderline_added: Change | None = None
    ordinary_added: Change | None = None
    """The same in each suite; None where it was not run."""
    broken_added: Change

    @property
    def added(self) -> dict[str, float | None]:
        """Return the harmless refusals and dodges added, as `TierCaps` names them."""
        return {
            "safe": self.safe_added,
            "borderline": self.borderline_added,
            "ordinary": self.ordinary_added,
        }


class TierCaps(_CardPart):
    """How many harmless refusals a tier may add to the bare model's, at most.

    As shares of the requests of each suite.
    """

    safe: Share
    borderline: Share
    ordinary: Share


class TierChoice(_CardPart):
    """What a tier was chosen for, and what it then did."""

    aim: Share
    """Share of harmful requests that it has to refuse at least."""
    caps: TierCaps
    """Harmless refusals that it may add, in each suite."""
    validation: TierMeasure
    """On the requests that it was chosen on."""
    test: TierMeasure | None = None
    """On requests that nothing was chosen on."""

    @property
    def met(self) -> bool:
        """Return whether the aim was met under the caps where the tier was chosen."""
        found, caps = self.validation, self.caps.model_dump()
        # Shares are differences of two fractions, which round.
        within = all(
            added is None or added <= caps[suite] + 1e-9
            for suite, added in found.added.items()
        )
        return within and found.harmful_refused >= self.aim - 1e-9


class ScaleCard(_CardPart):
    """What makes the raw scores of one kind of reading comparable; see `Gate`."""

    gain: Positive
    shift: Finite


class ContextCard(_CardPart):
    """What requests scored in one context, the strongest of their readings.

    Out of fold: no request was scored by a probe that was fitted to it.
    """

    harmful: list[Finite]
    """Ascending."""
    harmless: list[Finite]
    """Ascending."""

    def withheld(self, block: float | None) -> tuple[float, float]:
        """Return the shares of harmful and of harmless requests that a score blocks."""
        return _share_from(self.harmful, block), _share_from(self.harmless, block)


class GateCard(_CardPart):
    """How well a bundle's gate tells harmful from harmless requests.

    Every figure is from cross-validation over the calibration's pairs.
    """

    first_layer: Count
    auc: Share
    """Chance that a harmful clip outscores a harmless one, each read alone."""
    twins_told_apart: Annotated[float, Field(ge=0, le=1)]
    """Share of pairs whose harmful clip outscores the one matched to it."""
    written_auc: Share
    """The same as `auc` for written requests."""
    harmful_mean: Finite
    harmful_deviation: Finite
    harmless_mean: Finite
    harmless_deviation: Finite
    scales: dict[ReadingKind, ScaleCard]
    contexts: dict[str, ContextCard]
    """What was scored in each context that the gate was calibrated over."""


class TierCard(_CardPart):
    """The dose rule of one tier on one model."""

    floor: Positive
    ceiling: Positive
    low: Finite
    high: Finite
    block: Finite | None
    choice: TierChoice | None = None
    """How the rule was chosen; None where it follows from calibration alone."""

    @property
    def rule(self) -> DoseRule:
        """Return the rule."""
        return DoseRule(**self.model_dump(exclude={"choice"}))

    @model_validator(mode="after")
    def _check_rule(self) -> TierCard:
        # Building the rule checks it: a card with a rule that no request could use is
        # refused when it is read.
        _ = self.rule
        return self


class BundleCard(_CardPart):
    """What a bundle's vectors are, and what they were made from."""

    # Fields are named model_...; pydantic keeps that prefix for itself.
    model_config = ConfigDict(protected_namespaces=())

    format_version: Literal[5] = 5
    model_name: str
    model_revision: str | None
    architecture: str
    layers: Annotated[int, Field(ge=1)]
    hidden_size: Annotated[int, Field(ge=1)]
    weights_digest: Digest
    template_digest: Digest
    vectors_digest: Digest
    """Digest of the ablated vectors; those in memory are held to it."""
    instruction: str
    refusal: str
    pairs: Annotated[int, Field(ge=2)]
    benign: Count
    """Unmatched harmless clips that the gate was fitted to."""
    rank: Annotated[int, Field(ge=1)]
    lam: Share
    alpha: Positive
    """Steering coefficient of the faithful mode."""
    refusal_check: RefusalCard | None
    """That there is a refusal to bring out; None where it was not checked."""
    gate: GateCard
    tiers: dict[str, TierCard]
    calibration_digest: Digest
    raw_norms: list[float]
    norms: list[float]
    state_norms: list[float]
    cosine: list[float]
    """Cosine of raw and ablated vector in each layer."""
    explained_variance: list[list[float]]
    sarguard_version: str
    transformers_version: str
    torch_version: str
    created: str
    """UTC, ISO 8601."""


# Without slots, as the cached digest needs the instance's dict; without ==, as
# comparing tensors gives no single truth value.
@dataclass(frozen=True, kw_only=True, eq=False)
class SteeringBundle:
    """Refusal vectors and their gate, with their provenance."""

    card: BundleCard
    vectors: RefusalVectors
    gate: Gate

    def __post_init__(self) -> None:
        shape = (self.card.layers, self.card.hidden_size)
        if tuple(self.vectors.ablated.shape) != shape:
            raise ArtifactFormatError(
                f"vectors have shape {tuple(self.vectors.ablated.shape)}, the card "
                f"says {shape}"
            )
        first = self.card.gate.first_layer
        for probe in (self.gate.spoken, self.gate.written):
            found = tuple(probe.directions.shape)
            if found != (shape[0] - first, shape[1]):
                raise ArtifactFormatError(
                    f"a probe of the gate has shape {found}, the card says layers "
                    f"{first} to {shape[0] - 1} of width {shape[1]}"
                )
        if vectors_digest(self.vectors.ablated) != self.card.vectors_digest:
            raise ArtifactIntegrityError(
                "the vectors are not those that the card describes: calibrate again, "
                "or copy the bundle anew"
            )

    def with_tiers(self, tiers: Mapping[str, TierCard]) -> SteeringBundle:
        """Return the bundle with other tiers."""
        return replace(self, card=self.card.model_copy(update={"tiers": dict(tiers)}))

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the vectors file and the canonical card."""
        return _digest(self._vectors_bytes(), self.card)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the bundle, all of it or nothing.

        Returns:
            The directory; a bundle that was there before is replaced.

        Raises:
            ConfigurationError: Something other than a bundle is at that path.
        """
        target = Path(directory)
        # What was there before is removed as a whole, other files among it.
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent.resolve())
        )
        try:
            staged = scratch / "new"
            staged.mkdir()
            _write(staged / VECTORS_FILE, self._vectors_bytes())
            _write(staged / CARD_FILE, self._card_bytes())
            # Renames within one file system: a crash leaves the old bundle, the new
            # one or none at the path, and never half of one.
            if target.exists():
                target.rename(scratch / "old")
            staged.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> SteeringBundle:
        """Read a bundle and check that it is whole.

        Raises:
            ArtifactNotFoundError: There is no bundle at that path.
            ArtifactFormatError: The files are not those of this format version.
            ArtifactIntegrityError: The content differs from the recorded digest.
        """
        home = Path(directory)
        vectors_bytes = _read(home / VECTORS_FILE)
        card, recorded = _parse_card(home / CARD_FILE, _read(home / CARD_FILE))
        # Before the tensors are parsed: damage is then named as such, and not as a
        # wrong format.
        if _digest(vectors_bytes, card) != recorded:
            raise ArtifactIntegrityError(
                f"{home} differs from its recorded digest {recorded[:12]}: it was "
                "changed or damaged; copy it anew, or calibrate again"
            )
        tensors = _parse_tensors(home / VECTORS_FILE, vectors_bytes)
        return cls(
            card=card,
            vectors=RefusalVectors(**{name: tensors[name] for name in _TENSORS}),
            gate=_parse_gate(card.gate, tensors),
        )

    def check(self, loaded: LoadedModel) -> None:
        """Check that the bundle was made for a model.

        Raises:
            ArtifactMismatchError: It was made for other weights, another prompt
                format or another architecture.
        """
        found = describe_model(loaded)
        different = [
            f"{name}: bundle {_short(getattr(self.card, name))}, model {_short(value)}"
            for name, value in found.items()
            if getattr(self.card, name) != value
        ]
        if different:
            raise ArtifactMismatchError(
                f"the bundle was made for {self.card.model_name} (revision "
                f"{self.card.model_revision}), not for {loaded.name} (revision "
                f"{loaded.revision}); {'; '.join(different)}. {_other_rounding(loaded)}"
                "Use the bundle of this model, or make one: sarguard calibrate "
                f"{loaded.name} -o bundle/"
            )

    def _vectors_bytes(self) -> bytes:
        # safetensors refuses tensors that are not contiguous.
        tensors = {n: getattr(self.vectors, n).contiguous() for n in _TENSORS}
        for name, part in _PROBE_PARTS:
            probe = getattr(self.gate, name)
            tensors[f"{name}_{part}"] = getattr(probe, part).contiguous()
        return safetensors.torch.save(tensors)

    def _card_bytes(self) -> bytes:
        # The digest is taken over the card, so it is no field of it; `_parse_card`
        # takes it out again.
        content = {**self.card.model_dump(), "digest": self.digest}
        return (json.dumps(content, indent=2) + "\n").encode()


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """Return what ties a bundle to a model, under the card's names."""
    return {
        "architecture": type(loaded.model).__name__,
        "layers": len(loaded.decoder),
        "hidden_size": loaded.decoder.hidden_size,
        "weights_digest": weights_digest(loaded.model),
        "template_digest": template_digest(loaded.processor),
    }


def _digest(vectors: bytes, card: BundleCard) -> str:
    # Canonical: the layout of card.json and the order of its keys do not matter. The
    # vectors go in by their hash, whose length is fixed, so no byte can move over to
    # the card.
    canonical = json.dumps(card.model_dump(), sort_keys=True, separators=(",", ":"))
    content = hashlib.sha256(vectors).digest() + canonical.encode()
    return hashlib.sha256(content).hexdigest()


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    foreign = (
        sorted({p.name for p in target.iterdir()} - {VECTORS_FILE, CARD_FILE})
        if target.is_dir()
        else [target.name]
    )
    if foreign:
        raise ConfigurationError(
            f"{target} is not a bundle (found {', '.join(foreign[:3])}): choose a "
            "path that does not exist, or that holds a bundle to replace"
        )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        # Before the rename: a power cut must not leave a name whose bytes were lost.
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFoundError(
            f"no {path.name} in {path.parent}: give a bundle's directory, or make one "
            "with: sarguard calibrate MODEL -o bundle/"
        ) from error


def _parse_card(path: Path, content: bytes) -> tuple[BundleCard, str]:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise ArtifactFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ArtifactFormatError(f"{path} holds a {type(fields).__name__}, not a card")
    # Before validation: a card of another version fails that too, with errors that do
    # not say what to do.
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        model = fields.get("model_name", "MODEL")
        raise ArtifactFormatError(
            f"{path} has format version {version!r}, this sarguard reads "
            f"{FORMAT_VERSION}, whose gate is calibrated over contexts: make it again "
            f"(sarguard calibrate {model} -o {path.parent}), or install the version "
            "that wrote it"
        )
    recorded = fields.pop("digest", None)
    try:
        card = BundleCard.model_validate(fields)
        datetime.fromisoformat(card.created)
    except (ValidationError, ValueError) as error:
        raise ArtifactFormatError(f"{path} is not a bundle's card: {error}") from error
    if not isinstance(recorded, str):
        raise ArtifactFormatError(f"{path} records no digest")
    return card, recorded


def _parse_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        # Never pickle: reading a bundle must not be able to run code from it.
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ArtifactFormatError(f"{path} is not safetensors: {error}") from error
    expected = {*_TENSORS, *(f"{probe}_{part}" for probe, part in _PROBE_PARTS)}
    if set(tensors) != expected:
        raise ArtifactFormatError(
            f"{path} holds {sorted(tensors)}, expected {sorted(expected)}"
        )
    return tensors


def _parse_gate(card: GateCard, tensors: Mapping[str, Tensor]) -> Gate:
    spoken, written = (
        LinearProbe(
            first_layer=card.first_layer,
            **{part: tensors[f"{probe}_{part}"] for part in _PROBE_TENSORS},
        )
        for probe in _PROBES
    )
    return Gate(
        spoken=spoken,
        written=written,
        scales={
            kind: ReadingScale(gain=scale.gain, shift=scale.shift)
            for kind, scale in card.scales.items()
        },
    )


def _share_from(scores: Sequence[float], block: float | None) -> float:
    if block is None or not scores:
        return 0.0
    return sum(score >= block for score in scores) / len(scores)


def _other_rounding(loaded: LoadedModel) -> str:
    """Return a word on a number format that makes other weights of the same ones."""
    if loaded.dtype in (torch.float32, torch.bfloat16):
        return ""
    name = str(loaded.dtype).removeprefix("torch.")
    return (
        f"The model is loaded as {name}, which rounds its weights otherwise than "
        "float32 and bfloat16, of which a bundle's fingerprint is the same: load it as "
        "one of these (dtype= in Python, --dtype on the command line), or calibrate it "
        f"as {name}. "
    )


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
