"""What a client is opened with, judged before its model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sarguard.audit.log import AuditLog
from sarguard.audit.storage.open_ledger import check_folder
from sarguard.errors import ConfigurationError
from sarguard.guard.checks import InputCheck, OutputCheck
from sarguard.guard.factory import GuardOptions, effective_policy
from sarguard.guard.policy_guard import check_has_ledger
from sarguard.guard.transcripts import SpeechRecogniser
from sarguard.option_values import as_count, as_number, as_path, as_text, shown
from sarguard.policy.model import Policy
from sarguard.policy.overrides import PolicyInForce
from sarguard.policy.tiers import Tier
from sarguard.serving.observers import Observer
from sarguard.serving.request import check_names
from sarguard.steering.dose import DoseSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

WhenFull: TypeAlias = Literal["wait", "raise"]


class ClientOptions(GuardOptions, total=False):
    """What a client is opened with, however its model is given."""

    observers: Sequence[Observer]
    """Hear what happens to every request, and change nothing."""
    max_batch: int
    """Most requests that are answered together; 8 by default."""
    max_queue: int
    """Most requests that wait; 64 by default."""
    queue_full: WhenFull
    """Whether the next caller waits, which is the default, or gets a
    `QueueFullError`."""


def checked_options(**options: Unpack[ClientOptions]) -> ClientOptions:
    """Return options in the types that they are meant to have.

    Nothing is opened or written. What only the model or the ledger itself can tell is
    not judged.

    Raises:
        ConfigurationError: An option is unknown, of another type or out of range, or
            options contradict each other.
        PolicyError: The policy cannot be read, or holds more than is asked for.
        AuditWriteError: The ledger's folder is not there.
    """
    check_names(options, ClientOptions, ConfigurationError)
    found: Any = {
        name: _READ[name](name, value)
        for name, value in options.items()
        # None is the same as not given.
        if value is not None or name in _NEVER_NONE
    }
    guard = {name: found[name] for name in found if name in _OF_GUARD}
    in_force = effective_policy(**guard).in_force
    ledger = found.get("audit")
    if found.get("policy") is not None:
        # Read once: what was judged here is what will hold.
        found["policy"] = in_force
        check_has_ledger(in_force.policy, ledger is not None)
    if ledger is not None and not isinstance(ledger, AuditLog):
        check_folder(Path(ledger))
    options_found: ClientOptions = found
    return options_found


_OF_GUARD = frozenset(GuardOptions.__annotations__)
_NEVER_NONE = ("max_batch", "max_queue", "queue_full")
Reader: TypeAlias = Callable[[str, Any], Any]


def _one_of(*types: type, otherwise: Reader | None = None) -> Reader:
    """Return a reader of an object, or of what else stands for it."""

    def read(name: str, value: object) -> object:
        if isinstance(value, types):
            return value
        if otherwise is not None:
            return otherwise(name, value)
        names = " or ".join(kind.__name__ for kind in types)
        raise ConfigurationError(f"{name} is {shown(value)}: give a {names}, or None")

    return read


def _all_of(kind: type) -> Reader:
    """Return a reader of a list of objects."""

    def read(name: str, value: object) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)):
            raise ConfigurationError(
                f"{name} is {shown(value)}: give a list of {kind.__name__}"
            )
        for each in value:
            if not isinstance(each, kind):
                raise ConfigurationError(
                    f"{name} holds {shown(each)}: give a list of {kind.__name__}"
                )
        return tuple(value)

    return read


def _file(name: str, value: object) -> str:
    return as_path(name, value, ConfigurationError)


def _number(name: str, value: object) -> float:
    return as_number(name, value, ConfigurationError)


def _places(name: str, value: object) -> int:
    count = as_count(name, value, ConfigurationError)
    if count < 1:
        raise ConfigurationError(f"{name} is {count}: give 1 or more")
    return count


def _when_full(name: str, value: object) -> object:
    if not isinstance(value, str) or value not in ("wait", "raise"):
        raise ConfigurationError(f"{name} is {shown(value)}: use 'wait' or 'raise'")
    return value


def _tier(_: str, value: Tier | str) -> Tier:
    return Tier.named(value)


def _transcriber(name: str, value: object) -> object:
    if not isinstance(value, SpeechRecogniser) and not callable(value):
        raise ConfigurationError(
            f"{name} is {shown(value)}: give a function of a clip and its rate, or a "
            "SpeechRecogniser"
        )
    return value


def _text(name: str, value: object) -> str:
    return as_text(name, value, ConfigurationError)


_READ: Mapping[str, Reader] = {
    "policy": _one_of(Policy, PolicyInForce, otherwise=_file),
    "audit": _one_of(AuditLog, otherwise=_file),
    "tier": _tier,
    "alpha": _number,
    "dose": _one_of(DoseSpec),
    "fallback": _text,
    "input_checks": _all_of(InputCheck),
    "output_checks": _all_of(OutputCheck),
    "transcriber": _transcriber,
    "observers": _all_of(Observer),
    "max_batch": _places,
    "max_queue": _places,
    "queue_full": _when_full,
}
