"""A mapping that stays as it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import AfterValidator, SerializerFunctionWrapHandler, WrapSerializer

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(Mapping[K, V], Generic[K, V]):
    """Hold a mapping that can be hashed, copied and pickled, and not changed."""

    __slots__ = ("_held",)
    _held: dict[K, V]

    def __init__(self, content: Mapping[K, V]) -> None:
        object.__setattr__(self, "_held", dict(content))

    def __getitem__(self, key: K) -> V:
        return self._held[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __hash__(self) -> int:
        return hash(frozenset(self._held.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"a frozen mapping does not change: cannot set {name}")

    def __reduce__(self) -> tuple[type[FrozenMap[K, V]], tuple[dict[K, V]]]:
        return FrozenMap, (self._held,)

    def __repr__(self) -> str:
        return repr(self._held)


def _freeze(value: Mapping[Any, Any]) -> FrozenMap[Any, Any]:
    return FrozenMap(value)


def _thaw(value: Mapping[Any, Any], write: SerializerFunctionWrapHandler) -> Any:  # noqa: ANN401
    return write(dict(value))


FREEZE = AfterValidator(_freeze)
"""Makes a mapping of a section a `FrozenMap`."""

THAW = WrapSerializer(_thaw)
"""Lets it be written down again; goes with `FREEZE`."""
