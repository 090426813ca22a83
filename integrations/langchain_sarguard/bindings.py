"""What wraps a guarded model, and who may stand in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableSerializable,
    RunnableWithFallbacks,
)
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)

from langchain_sarguard.errors import InvalidInputError, UnguardedModelError

if TYPE_CHECKING:
    Base = RunnableSerializable[Any, Any]
else:
    Base = object


class Guarded:
    """Mark what answers through a guarded client, and nothing else."""


class GuardedWays(Guarded, Base):
    """Keep the guard on everything that a runnable's own methods make of it."""

    def bind(self, **kwargs: Any) -> GuardedBinding:  # noqa: ANN401
        """Return this model with arguments for each call."""
        return GuardedBinding(bound=self, kwargs=kwargs, config={})

    def with_config(
        self,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> GuardedBinding:
        """Return this model with a configuration."""
        merged: Any = {**(config or {}), **kwargs}
        return GuardedBinding(bound=self, kwargs={}, config=merged)

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[Any, Any]],
        **settings: Any,  # noqa: ANN401
    ) -> RunnableWithFallbacks[Any, Any]:
        """Return this model with guarded models behind it.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        check_guarded(fallbacks, "a fallback")
        return super().with_fallbacks(fallbacks, **settings)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        **settings: Any,  # noqa: ANN401
    ) -> RunnableSerializable[Any, Any]:
        """Return this model with guarded models that a configuration may choose.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        named = ("default_key", "prefix_keys")
        others = [made(v) for name, v in settings.items() if name not in named]
        check_guarded(others, "an alternative")
        return super().configurable_alternatives(which, **settings)


class GuardedBinding(GuardedWays, RunnableBinding[Any, Any]):
    """Bind arguments or a configuration to a guarded model."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """Name langchain-core's own class, of which this is no more than a kind."""
        return [*cls.get_lc_namespace(), "RunnableBinding"]

    def bind(self, **kwargs: Any) -> GuardedBinding:  # noqa: ANN401
        """Return this binding with more arguments."""
        made: Any = RunnableBinding.bind(self, **kwargs)
        return made  # type: ignore[no-any-return]

    def with_config(
        self,
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> GuardedBinding:
        """Return this binding with more configuration."""
        made: Any = RunnableBinding.with_config(self, config, **kwargs)
        return made  # type: ignore[no-any-return]


def made(alternative: object) -> object:
    """Return what an alternative is, or what a callable one makes."""
    if isinstance(alternative, Runnable) or not callable(alternative):
        return alternative
    make: Callable[[], object] = alternative
    return make()


def check_guarded(runnables: Iterable[object], what: str) -> None:
    """Raise where something would answer in a guarded model's place, unguarded.

    Raises:
        UnguardedModelError: As said.
    """
    for runnable in runnables:
        if not is_guarded(runnable):
            raise UnguardedModelError(
                f"{type(runnable).__name__} is not guarded and cannot be {what} of a "
                "guarded model: it would answer where the guard did not. Use another "
                "ChatSafeAudio, or catch the error and say so to the caller."
            )


def is_guarded(runnable: object) -> bool:
    """Return whether a runnable answers through guarded clients only."""
    if isinstance(runnable, RunnableBinding):
        return is_guarded(runnable.bound)
    if isinstance(runnable, RunnableWithFallbacks):
        return all(map(is_guarded, [runnable.runnable, *runnable.fallbacks]))
    if isinstance(runnable, RunnableConfigurableAlternatives):
        others = [made(other) for other in runnable.alternatives.values()]
        return all(map(is_guarded, [runnable.default, *others]))
    if isinstance(runnable, RunnableConfigurableFields):
        return is_guarded(runnable.default)
    return isinstance(runnable, Guarded)


def check_configurable(fields: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise for a field that a configuration must not reach.

    Raises:
        InvalidInputError: There is one.
    """
    closed = sorted(set(fields) - set(allowed))
    if closed:
        raise InvalidInputError(
            f"{', '.join(closed)} cannot be made configurable: whoever sends a "
            "configuration could put another model or a weaker guard in its place. "
            f"Configurable are {', '.join(sorted(allowed))}."
        )
