"""Base of every part of a policy: a closed, frozen model, and the types it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)

from sarguard.errors import PolicyFormatError

K = TypeVar("K")
V = TypeVar("V")


class Section(BaseModel):
    """Closed and frozen part of a policy: an unknown key is an error."""

    # Descriptions in the JSON Schema are the docstrings under the fields.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        validate_default=True,
    )


class FrozenMap(Mapping[K, V], Generic[K, V]):
    """Immutable mapping that can be hashed, copied and pickled."""

    __slots__ = ("_items",)
    _items: dict[K, V]

    def __init__(self, content: Mapping[K, V]) -> None:
        # Past the class's own __setattr__, which refuses everything. A copy, as the
        # caller may change theirs.
        object.__setattr__(self, "_items", dict(content))

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"a frozen mapping does not change: cannot set {name}")

    # The default pickling of slots would set the attribute, which is refused above.
    def __reduce__(self) -> tuple[type[FrozenMap[K, V]], tuple[dict[K, V]]]:
        return FrozenMap, (self._items,)

    def __repr__(self) -> str:
        return repr(self._items)


def _freeze(value: Mapping[Any, Any]) -> FrozenMap[Any, Any]:
    return FrozenMap(value)


def _thaw(value: Mapping[Any, Any], write: SerializerFunctionWrapHandler) -> Any:  # noqa: ANN401
    return write(dict(value))


FREEZE = AfterValidator(_freeze)
"""Makes a mapping of a section a `FrozenMap`; goes with `THAW`."""

THAW = WrapSerializer(_thaw)
"""Lets a `FrozenMap` be serialised: pydantic's serialiser takes only a dict."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A duration above 0."""

Number = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

Words = Annotated[str, Field(min_length=8, max_length=1000)]
"""A reason that a person gives, in words."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name of letters, digits, dots, dashes and underscores."""


def as_utc(now: datetime | None) -> datetime:
    """Return a time in UTC: the one given, or the present.

    Raises:
        PolicyFormatError: The time has no time zone.
    """
    if now is None:
        return datetime.now(UTC)
    if now.utcoffset() is None:
        raise PolicyFormatError(
            f"{now.isoformat()} has no time zone, so it is ambiguous: use "
            "datetime.now(timezone.utc)"
        )
    return now.astimezone(UTC)


def format_utc(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, with six decimals and a Z."""
    return as_utc(time).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
