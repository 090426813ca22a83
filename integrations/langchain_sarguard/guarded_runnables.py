"""Guarded runnables: who may answer in the place of a guarded chat model.

langchain-core derives runnables from a chat model (`bind`, `with_retry`, `map` ...) by
classes that know nothing of a guard: `chat.with_retry().with_fallbacks([other])` would
let any model answer where the guarded one failed closed. So all that is derived here
is rebuilt as a subclass with the same checks, at any depth.
"""

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
    # A mixin at run time: the runnable itself is the next class in line.
    _Base = RunnableSerializable[Any, Any]
else:
    _Base = object


class Guarded:
    """Marker of runnables that answer through a guarded client, and nothing else."""


class GuardedRunnable(Guarded, _Base):
    """Runnable methods whose results are guarded as well."""

    def bind(self, **kwargs: Any) -> GuardedBinding:
        """Return this model with arguments for each call."""
        return GuardedBinding(bound=self, kwargs=kwargs, config={})

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: Any
    ) -> GuardedBinding:
        """Return this model with a configuration."""
        merged: Any = {**(config or {}), **kwargs}
        return GuardedBinding(bound=self, kwargs={}, config=merged)

    def with_fallbacks(
        self, fallbacks: Sequence[Runnable[Any, Any]], **settings: Any
    ) -> RunnableWithFallbacks[Any, Any]:
        """Return this model with guarded fallbacks.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        check_guarded(fallbacks, "a fallback")
        guarded: RunnableWithFallbacks[Any, Any] = as_guarded(
            super().with_fallbacks(fallbacks, **settings)
        )
        return guarded

    def with_retry(self, **settings: Any) -> Any:
        """Return this model, asked again where it raises."""
        return as_guarded(super().with_retry(**settings))

    def with_listeners(self, **listeners: Any) -> Any:
        """Return this model with listeners to its runs."""
        return as_guarded(super().with_listeners(**listeners))

    def with_alisteners(self, **listeners: Any) -> Any:
        """Return this model with asynchronous listeners to its runs."""
        return as_guarded(super().with_alisteners(**listeners))

    def with_types(self, **types: Any) -> Any:
        """Return this model with other types of input and output."""
        return as_guarded(super().with_types(**types))

    def map(self) -> Any:
        """Return a runnable that answers each item of a list."""
        return as_guarded(super().map())

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this model with fields that a configuration may set."""
        return as_guarded(super().configurable_fields(**fields))

    def configurable_alternatives(
        self, which: ConfigurableField, **settings: Any
    ) -> RunnableSerializable[Any, Any]:
        """Return this model with guarded models that a configuration may choose.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        # langchain-core takes the alternatives among its own keyword arguments.
        options = ("default_key", "prefix_keys")
        models = [_resolve(v) for name, v in settings.items() if name not in options]
        check_guarded(models, "an alternative")
        guarded: RunnableSerializable[Any, Any] = as_guarded(
            super().configurable_alternatives(which, **settings)
        )
        return guarded


class GuardedWrapper(GuardedRunnable):
    """One of langchain-core's wrappers, around a guarded runnable."""

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the id of langchain-core's class, which any reader knows."""
        core = (c for c in cls.__mro__ if c.__module__.startswith("langchain_core."))
        return [*cls.get_lc_namespace(), next(core).__name__]

    def configurable_fields(self, **fields: Any) -> Any:
        """Refuse; a wrapper's fields include the model that it wraps.

        Raises:
            InvalidInputError: There is a field.
        """
        check_configurable(fields, ())
        return self


# Without parameters: a parametrised field would take no instance of the plain class.
class GuardedRetry(GuardedWrapper, RunnableRetry):  # type: ignore[type-arg]
    """Guarded runnable that is asked again where it raises."""


class GuardedEach(GuardedWrapper, RunnableEach):  # type: ignore[misc,type-arg]
    """Guarded runnable that answers each item of a list."""


class GuardedFallbacks(GuardedWrapper, RunnableWithFallbacks):  # type: ignore[type-arg]
    """Guarded runnable with guarded fallbacks."""


class GuardedConfigurableFields(GuardedWrapper, RunnableConfigurableFields):  # type: ignore[type-arg]
    """Guarded runnable with fields that a configuration sets."""

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this model with more fields that a configuration may set."""
        # It passes them on to the model, whose own check applies.
        return RunnableConfigurableFields.configurable_fields(self, **fields)


class GuardedConfigurableAlternatives(
    GuardedWrapper,
    RunnableConfigurableAlternatives,  # type: ignore[type-arg]
):
    """Guarded runnables between which a configuration chooses."""


class GuardedBinding(GuardedWrapper, RunnableBinding[Any, Any]):  # type: ignore[misc]
    """Guarded runnable with bound arguments or a bound configuration."""

    def bind(self, **kwargs: Any) -> GuardedBinding:
        """Return this binding with more arguments."""
        binding: Any = RunnableBinding.bind(self, **kwargs)
        return binding  # type: ignore[no-any-return]

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: Any
    ) -> GuardedBinding:
        """Return this binding with more configuration."""
        binding: Any = RunnableBinding.with_config(self, config, **kwargs)
        return binding  # type: ignore[no-any-return]


_WRAPPERS: dict[type, type[GuardedWrapper]] = {
    RunnableBinding: GuardedBinding,
    RunnableConfigurableAlternatives: GuardedConfigurableAlternatives,
    RunnableConfigurableFields: GuardedConfigurableFields,
    RunnableEach: GuardedEach,
    RunnableRetry: GuardedRetry,
    RunnableWithFallbacks: GuardedFallbacks,
}


def as_guarded(derived: Any) -> Any:
    """Return what langchain-core derived from a guarded runnable, guarded."""
    # By exact type: rebuilding a subclass of these would drop what it adds.
    wrapper = _WRAPPERS.get(type(derived))
    # A pydantic model iterates over its fields, whose values are kept as they are.
    return derived if wrapper is None else wrapper(**dict(derived))


def _resolve(alternative: object) -> object:
    """Return an alternative, or what a factory of one makes."""
    if isinstance(alternative, Runnable) or not callable(alternative):
        return alternative
    make: Callable[[], object] = alternative
    return make()


def check_guarded(runnables: Iterable[object], role: str) -> None:
    """Refuse runnables that would answer in a guarded model's place, unguarded.

    Raises:
        UnguardedModelError: One of them is not guarded.
    """
    for runnable in runnables:
        if not is_guarded(runnable):
            raise UnguardedModelError(
                f"{type(runnable).__name__} is not guarded and cannot be {role} of a "
                "guarded model: it would answer where the guard did not. Use another "
                "ChatSafeAudio, or catch the error and say so to the caller."
            )


def is_guarded(runnable: object) -> bool:
    """Return whether a runnable answers through guarded clients only.

    Wrappers are judged by what they wrap. A sequence or a function is never guarded:
    it may call any model, and what it calls cannot be seen from outside.
    """
    if isinstance(runnable, RunnableBindingBase):
        return is_guarded(runnable.bound)
    if isinstance(runnable, RunnableWithFallbacks):
        return all(map(is_guarded, [runnable.runnable, *runnable.fallbacks]))
    if isinstance(runnable, RunnableConfigurableAlternatives):
        others = [_resolve(other) for other in runnable.alternatives.values()]
        return all(map(is_guarded, [runnable.default, *others]))
    if isinstance(runnable, RunnableConfigurableFields):
        return is_guarded(runnable.default)
    return isinstance(runnable, Guarded)


def check_configurable(fields: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse fields that a configuration must not set.

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
