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
from langchain_core.runnables.base import RunnableBindingBase, RunnableEach
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.retry import RunnableRetry

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
        kept: RunnableWithFallbacks[Any, Any] = keep(
            super().with_fallbacks(fallbacks, **settings)
        )
        return kept

    def with_retry(self, **settings: Any) -> Any:  # noqa: ANN401
        """Return this model, asked again where it raises."""
        return keep(super().with_retry(**settings))

    def with_listeners(self, **listeners: Any) -> Any:  # noqa: ANN401
        """Return this model with listeners to its runs."""
        return keep(super().with_listeners(**listeners))

    def with_alisteners(self, **listeners: Any) -> Any:  # noqa: ANN401
        """Return this model with asynchronous listeners to its runs."""
        return keep(super().with_alisteners(**listeners))

    def with_types(self, **types: Any) -> Any:  # noqa: ANN401
        """Return this model with other types of input and output."""
        return keep(super().with_types(**types))

    def map(self) -> Any:  # noqa: ANN401
        """Return a runnable that answers each item of a list."""
        return keep(super().map())

    def configurable_fields(self, **fields: Any) -> Any:  # noqa: ANN401
        """Return this model with fields that a configuration may choose."""
        return keep(super().configurable_fields(**fields))

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
        kept: RunnableSerializable[Any, Any] = keep(
            super().configurable_alternatives(which, **settings)
        )
        return kept


class GuardedKind(GuardedWays):
    """Be langchain-core's own class, but for what may stand in."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """Name langchain-core's class, so that others can read what is written."""
        core = (c for c in cls.__mro__ if c.__module__.startswith("langchain_core."))
        return [*cls.get_lc_namespace(), next(core).__name__]

    def configurable_fields(self, **fields: Any) -> Any:  # noqa: ANN401
        """Say that a configuration reaches the model's own settings only.

        Raises:
            InvalidInputError: Always: one of the fields is the model.
        """
        check_configurable(fields, ())
        return self


# Without parameters: a parametrised field would take no instance of the plain class.
class GuardedRetry(GuardedKind, RunnableRetry):  # type: ignore[type-arg]
    """Ask a guarded model again where it raises."""


class GuardedEach(GuardedKind, RunnableEach):  # type: ignore[misc,type-arg]
    """Answer each item of a list."""


class GuardedFallbacks(GuardedKind, RunnableWithFallbacks):  # type: ignore[type-arg]
    """Ask one guarded model after the other."""


class GuardedFields(GuardedKind, RunnableConfigurableFields):  # type: ignore[type-arg]
    """Let a configuration choose settings of a guarded model."""

    def configurable_fields(self, **fields: Any) -> Any:  # noqa: ANN401
        """Return this model with more of its settings open to a configuration."""
        return RunnableConfigurableFields.configurable_fields(self, **fields)


class GuardedAlternatives(GuardedKind, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """Let a configuration choose between guarded models."""


class GuardedBinding(GuardedKind, RunnableBinding[Any, Any]):  # type: ignore[misc]
    """Bind arguments or a configuration to a guarded model."""

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


_KINDS: dict[type, type[GuardedKind]] = {
    RunnableBinding: GuardedBinding,
    RunnableConfigurableAlternatives: GuardedAlternatives,
    RunnableConfigurableFields: GuardedFields,
    RunnableEach: GuardedEach,
    RunnableRetry: GuardedRetry,
    RunnableWithFallbacks: GuardedFallbacks,
}


def keep(made: Any) -> Any:  # noqa: ANN401
    """Return what langchain-core made of a guarded runnable, as a guarded one."""
    kind = _KINDS.get(type(made))
    return made if kind is None else kind(**dict(made))


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
    if isinstance(runnable, RunnableBindingBase):
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
            f"Configurable are {', '.join(sorted(allowed)) or 'fields of the model'}."
        )
