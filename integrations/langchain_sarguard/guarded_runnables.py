"""Guarded runnables: what every method of LangChain makes of a guarded model.

langchain-core derives runnables from a chat model (`bind`, `with_retry`, `|` ...) by
classes that know nothing of a guard: `chat.with_retry().with_fallbacks([other])` would
let any model answer where the guarded one failed closed, and the run that `with_retry`
opens would record the caller's voice. So whatever is derived here is a subclass of
langchain-core's class with two things added, at any depth:

* who may answer is checked where it is put together, and again at each use, as parts of
  a runnable can be replaced afterwards;
* audio in the input is replaced by handles before the first run begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from langchain_core.output_parsers import BaseOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableSequence,
    RunnableSerializable,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import (
    RunnableBindingBase,
    RunnableEach,
    coerce_to_runnable,
)
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.passthrough import RunnablePassthrough, RunnablePick
from langchain_core.runnables.retry import RunnableRetry
from langchain_core.tools import BaseTool, StructuredTool, Tool

from langchain_sarguard.audio_handles import AudioStream, hidden, hide, is_handle
from langchain_sarguard.errors import InvalidInputError, UnguardedModelError
from langchain_sarguard.iteration import closing

if TYPE_CHECKING:
    # A mixin at run time: the runnable itself is the next class in line.
    _Base = RunnableSerializable[Any, Any]
else:
    _Base = object

_Item = TypeVar("_Item")


class AnswerParser:
    """Marker of runnables that read answers, and ask no model."""


class Guarded:
    """Marker of runnables that answer through a guarded client, and nothing else."""


class CheckedInput(_Base):
    """Ways in of a runnable: each checks the guard, and hides audio from tracers."""

    hides_input: ClassVar[bool] = True

    def check_guard(self) -> None:
        """Raise UnguardedModelError where an unguarded model could answer."""
        try:
            _check_parts(_parts(self))
        except UnguardedModelError as error:
            # The request that would have been answered so is in the ledger, too.
            for model in guarded_models(self):
                model.record_failure(error)
                break
            raise

    @contextlib.contextmanager
    def _entering(self, value: _Item) -> Iterator[_Item]:
        self.check_guard()
        if not self.hides_input:
            yield value
            return
        with hidden(value) as without_audio:
            yield without_audio

    def _options(
        self, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of a call, with what its configuration says."""
        return kwargs

    def invoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Answer an input."""
        with self._entering(input) as hidden_input:
            options = self._options(config, kwargs)
            return super().invoke(hidden_input, config, **options)  # type: ignore[safe-super]

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Answer an input without blocking the event loop."""
        with self._entering(input) as hidden_input:
            options = self._options(config, kwargs)
            return await super().ainvoke(hidden_input, config, **options)

    def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Answer several inputs at once."""
        with self._entering(inputs) as hidden_inputs:
            return super().batch(hidden_inputs, *args, **kwargs)

    async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Answer several inputs at once without blocking the event loop."""
        with self._entering(inputs) as hidden_inputs:
            return await super().abatch(hidden_inputs, *args, **kwargs)

    def batch_as_completed(
        self, inputs: Sequence[Any], *args: Any, **kwargs: Any
    ) -> Iterator[Any]:
        """Answer several inputs at once; yield each when it is there."""
        with self._entering(inputs) as hidden_inputs:
            yield from super().batch_as_completed(hidden_inputs, *args, **kwargs)

    async def abatch_as_completed(
        self, inputs: Sequence[Any], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Answer several inputs at once; yield each when it is there."""
        with self._entering(inputs) as hidden_inputs:
            found = super().abatch_as_completed(hidden_inputs, *args, **kwargs)
            async with closing(found) as opened:
                async for item in opened:
                    yield item

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Answer an input in pieces."""
        with self._entering(input) as hidden_input:
            options = self._options(config, kwargs)
            yield from super().stream(hidden_input, config, **options)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Answer an input in pieces without blocking the event loop."""
        with self._entering(input) as hidden_input:
            options = self._options(config, kwargs)
            found = super().astream(hidden_input, config, **options)
            async with closing(found) as opened:
                async for item in opened:
                    yield item

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Answer a stream of inputs."""
        self.check_guard()
        if not (self.hides_input and takes_streams(self)):
            items = map(hide, input) if self.hides_input else input
            yield from super().transform(items, config, **kwargs)
            return
        stream = AudioStream(input)
        found = super().transform(iter([stream]), config, **kwargs)
        try:
            # Not by `yield from`, which would close what reads the stream first: that
            # reads on to its end, and a microphone has none.
            for item in found:  # noqa: UP028
                yield item
        finally:
            stream.closed = True
            closed: Any = found
            closed.close()

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Answer a stream of inputs without blocking the event loop."""
        self.check_guard()
        items = input
        if self.hides_input:
            streams = takes_streams(self)
            items = _one(AudioStream(input)) if streams else _hidden_items(input)
        found = super().atransform(items, config, **kwargs)
        async with closing(found) as opened:
            async for item in opened:
                yield item

    async def astream_log(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Stream the log of a run."""
        with self._entering(input) as hidden_input:
            found: Any = super().astream_log(hidden_input, config, **kwargs)
            async with closing(found) as opened:
                async for item in opened:
                    yield item

    def stream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream events; the first of them repeats the input, without its audio."""
        self.check_guard()
        # What comes back may begin later, so the clips last as long as it does.
        options = self._options(config, kwargs)
        given = hide(input) if self.hides_input else input
        return super().stream_events(given, config, **options)

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream events; the first of them repeats the input, without its audio."""
        self.check_guard()
        options = self._options(config, kwargs)
        given = hide(input) if self.hides_input else input
        return super().astream_events(given, config, **options)


class GuardedRunnable(CheckedInput):
    """Runnable methods whose results are guarded as well."""

    def __or__(self, other: Any) -> GuardedSequence:
        return self.pipe(other)

    def __ror__(self, other: Any) -> UncheckedInputSequence:
        # What is in front takes the input as it is, its audio included.
        steps = [*_steps(coerce_to_runnable(other)), *_steps(self)]
        return _sequence(UncheckedInputSequence, steps)

    def pipe(self, *others: Any, name: str | None = None) -> GuardedSequence:
        """Return a sequence that ends with the last of the others."""
        steps = [step for o in others for step in _steps(coerce_to_runnable(o))]
        unchecked = isinstance(self, UncheckedInputSequence)
        kind = UncheckedInputSequence if unchecked else GuardedSequence
        return _sequence(kind, [*_steps(self), *steps], name=name)

    def pick(self, keys: str | list[str]) -> GuardedSequence:
        """Return a sequence that ends with values of the output."""
        return self.pipe(RunnablePick(keys))

    def assign(self, **values: Any) -> GuardedSequence:
        """Return a sequence that ends with the output and more values."""
        return self.pipe(RunnablePassthrough.assign(**values))

    def bind(self, **kwargs: Any) -> GuardedBinding:
        """Return this runnable with arguments for each call."""
        return GuardedBinding(bound=self, kwargs=kwargs, config={})

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: Any
    ) -> GuardedBinding:
        """Return this runnable with a configuration."""
        merged: Any = {**(config or {}), **kwargs}
        return GuardedBinding(bound=self, kwargs={}, config=merged)

    def with_fallbacks(
        self, fallbacks: Sequence[Runnable[Any, Any]], **settings: Any
    ) -> RunnableWithFallbacks[Any, Any]:
        """Return this runnable with guarded fallbacks.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        check_guarded(fallbacks, "a fallback")
        guarded: RunnableWithFallbacks[Any, Any] = as_guarded(
            super().with_fallbacks(fallbacks, **settings)
        )
        return guarded

    def with_retry(self, **settings: Any) -> Any:
        """Return this runnable, asked again where it raises."""
        return as_guarded(super().with_retry(**settings))

    def with_listeners(self, **listeners: Any) -> Any:
        """Return this runnable with listeners to its runs."""
        return as_guarded(super().with_listeners(**listeners))

    def with_alisteners(self, **listeners: Any) -> Any:
        """Return this runnable with asynchronous listeners to its runs."""
        return as_guarded(super().with_alisteners(**listeners))

    def with_types(self, **types: Any) -> Any:
        """Return this runnable with other types of input and output."""
        return as_guarded(super().with_types(**types))

    def map(self) -> Any:
        """Return a runnable that answers each item of a list."""
        return as_guarded(super().map())

    def as_tool(self, *args: Any, **kwargs: Any) -> BaseTool:
        """Return a tool that asks this runnable."""
        tool: Any = as_guarded(super().as_tool(*args, **kwargs))
        tool.handles_only = hasattr(type(_innermost(self)), "hears")
        guarded: BaseTool = tool
        return guarded

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this runnable with fields that a configuration may set."""
        return as_guarded(super().configurable_fields(**fields))

    def configurable_alternatives(
        self, which: ConfigurableField, **settings: Any
    ) -> RunnableSerializable[Any, Any]:
        """Return this runnable with guarded ones that a configuration may choose.

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
    """One of langchain-core's wrappers, around guarded runnables."""

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


class GuardedSequence(GuardedWrapper, RunnableSequence[Any, Any]):
    """Sequence that begins with a guarded runnable.

    What comes behind it is its owner's: it may change or replace an answer.
    """


class UncheckedInputSequence(GuardedSequence):
    """Sequence that ends with a guarded runnable; its input is traced as it is."""

    hides_input: ClassVar[bool] = False


class _PassingOn(GuardedWrapper):
    """Wrapper that passes methods on which it does not have, such as `generate`."""

    def __getattr__(self, name: str) -> Any:
        passed_on: Any = super()
        found = passed_on.__getattr__(name)
        if callable(found):
            self.check_guard()
        return found


# Without parameters: a parametrised field would take no instance of the plain class.
class GuardedRetry(GuardedWrapper, RunnableRetry):  # type: ignore[type-arg]
    """Guarded runnable that is asked again where it raises."""


class GuardedEach(GuardedWrapper, RunnableEach):  # type: ignore[misc,type-arg]
    """Guarded runnable that answers each item of a list."""


class GuardedFallbacks(_PassingOn, RunnableWithFallbacks):  # type: ignore[type-arg]
    """Guarded runnable with guarded fallbacks."""


class GuardedConfigurableFields(_PassingOn, RunnableConfigurableFields):  # type: ignore[type-arg]
    """Guarded runnable with fields that a configuration sets."""

    def configurable_fields(self, **fields: Any) -> Any:
        """Return this runnable with more fields that a configuration may set."""
        # It passes them on to the model, whose own check applies.
        return as_guarded(
            RunnableConfigurableFields.configurable_fields(self, **fields)
        )


class GuardedConfigurableAlternatives(
    _PassingOn,
    RunnableConfigurableAlternatives,  # type: ignore[type-arg]
):
    """Guarded runnables between which a configuration chooses."""

    def _prepare(
        self, config: RunnableConfig | None = None
    ) -> tuple[Runnable[Any, Any], RunnableConfig]:
        # A factory may make another runnable each time, so what it made is checked.
        chosen, prepared = super()._prepare(config)
        _check_parts([self.default, *([] if chosen is self.default else [chosen])])
        return chosen, prepared


class GuardedBinding(_PassingOn, RunnableBinding[Any, Any]):  # type: ignore[misc]
    """Guarded runnable with bound arguments or a bound configuration."""

    def with_structured_output(self, *args: Any, **kwargs: Any) -> GuardedSequence:
        """Return this binding, arguments kept, with answers that follow a schema."""
        structured = self.bound.with_structured_output(*args, **kwargs)  # type: ignore[attr-defined]
        first, *rest = structured.steps
        return self.bind(**first.kwargs).pipe(*rest)

    def bind_tools(self, *args: Any, **kwargs: Any) -> GuardedBinding:
        """Return this binding, its arguments kept, with a response format."""
        bound = self.bound.bind_tools(*args, **kwargs)  # type: ignore[attr-defined]
        return self.bind(**bound.kwargs)

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


class _GuardedTool(Guarded, GuardedWrapper):
    """Tool that asks a guarded runnable, which checks itself."""

    handles_only: bool = False
    """Whether its text names a clip. A path would have a model choose files to read."""

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        """Ask the runnable."""
        self._check_input(tool_input)
        with hidden(tool_input) as hidden_input:
            run: Any = super().run  # type: ignore[misc]
            return run(hidden_input, *args, **kwargs)

    async def arun(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        """Ask the runnable without blocking the event loop."""
        self._check_input(tool_input)
        with hidden(tool_input) as hidden_input:
            arun: Any = super().arun  # type: ignore[misc]
            return await arun(hidden_input, *args, **kwargs)

    def _check_input(self, tool_input: object) -> None:
        if self.handles_only and not all(map(is_handle, _texts(tool_input))):
            raise InvalidInputError(
                "a tool that hears takes the handle of a stored clip, such as "
                "audio_store.put() returns, and no path: a model would choose which "
                "files are read."
            )


def _texts(tool_input: Any) -> Iterator[str]:
    """Yield the texts of a tool's input, which may be a model's call of it."""
    if isinstance(tool_input, str):
        yield tool_input
    elif isinstance(tool_input, Mapping):
        called = tool_input.get("type") == "tool_call" and "args" in tool_input
        values = tool_input["args"] if called else tool_input
        for value in values.values() if isinstance(values, Mapping) else [values]:
            yield from _texts(value)
    elif isinstance(tool_input, (list, tuple)):
        for value in tool_input:
            yield from _texts(value)


class GuardedTool(_GuardedTool, Tool):
    """Tool of one argument that asks a guarded runnable."""


class GuardedStructuredTool(_GuardedTool, StructuredTool):
    """Tool of several arguments that asks a guarded runnable."""


_WRAPPERS: dict[type, type[Runnable[Any, Any]]] = {
    RunnableBinding: GuardedBinding,
    RunnableConfigurableAlternatives: GuardedConfigurableAlternatives,
    RunnableConfigurableFields: GuardedConfigurableFields,
    RunnableEach: GuardedEach,
    RunnableRetry: GuardedRetry,
    RunnableWithFallbacks: GuardedFallbacks,
    StructuredTool: GuardedStructuredTool,
    Tool: GuardedTool,
}


def as_guarded(derived: Any) -> Any:
    """Return what langchain-core derived from a guarded runnable, guarded.

    Raises:
        UnguardedModelError: It is of a class that is not known here.
    """
    if isinstance(derived, CheckedInput):
        return derived
    # By exact type: rebuilding a subclass of these would drop what it adds.
    wrapper: Any = _WRAPPERS.get(type(derived))
    if wrapper is None:
        raise UnguardedModelError(
            f"langchain-core made a {type(derived).__name__} of a guarded runnable: "
            "what that does with it is not known to this version of sarguard. Use one "
            "of the methods in docs/langchain.md, or a version of langchain-core that "
            "it names."
        )
    # A pydantic model iterates over its fields, whose values are kept as they are.
    return wrapper(**dict(derived))


_Sequence = TypeVar("_Sequence", bound=GuardedSequence)


def _sequence(
    kind: type[_Sequence], steps: list[Runnable[Any, Any]], *, name: str | None = None
) -> _Sequence:
    # Its signature is that of its fields to a type checker, who has not seen steps.
    make: Any = kind
    sequence: _Sequence = make(*steps, name=name)
    return sequence


def _steps(runnable: Runnable[Any, Any]) -> list[Runnable[Any, Any]]:
    """Return the steps of a sequence, or the runnable as the only one."""
    return runnable.steps if isinstance(runnable, RunnableSequence) else [runnable]


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
                "ChatSafeAudio, put functions behind the fallbacks, as in "
                "chat.with_fallbacks([other]) | function, or catch the error and say "
                "so to the caller."
            )


def _check_parts(parts: Sequence[object]) -> None:
    """Refuse parts that are not the guarded ones that they were.

    Raises:
        UnguardedModelError: One of them is not guarded.
    """
    first, stand_ins = parts[:1], parts[1:]
    # The first is what was guarded here. A sequence may end with any function: that is
    # its owner's to do with an answer, but not a stand-in's.
    replaced = [part for part in first if not isinstance(part, CheckedInput)]
    check_guarded([*replaced, *stand_ins], "a part")


def is_guarded(runnable: object) -> bool:
    """Return whether a runnable answers through guarded clients only.

    Wrappers are judged by what they wrap. A function is never guarded: it may call any
    model, and what it calls cannot be seen from outside. So a sequence is guarded only
    if langchain-core's own parsers are all that follows a guarded runnable.
    """
    if isinstance(runnable, RunnableSequence):
        first, *rest = runnable.steps
        return is_guarded(first) and all(map(_only_parses, rest))
    parts = _parts(runnable)
    if not parts:
        return isinstance(runnable, Guarded)
    # Somebody's own subclass of a wrapper may answer by itself.
    module = type(runnable).__module__
    known = module.startswith(("langchain_core.", "langchain_sarguard."))
    return known and all(map(is_guarded, parts))


def _parts(runnable: object) -> list[object]:
    """Return the runnables that answer in a wrapper."""
    if isinstance(runnable, UncheckedInputSequence):
        ours = (step for step in runnable.steps if isinstance(step, CheckedInput))
        return [next(ours, runnable.last)]
    if hasattr(type(runnable), "hears"):
        hearing: Any = runnable
        return [hearing.chat]
    if isinstance(runnable, RunnableSequence):
        return [runnable.first]
    if isinstance(runnable, (RunnableBindingBase, RunnableEach)):
        return [runnable.bound]
    if isinstance(runnable, RunnableWithFallbacks):
        return [runnable.runnable, *runnable.fallbacks]
    if isinstance(runnable, RunnableConfigurableAlternatives):
        others = [_resolve(other) for other in runnable.alternatives.values()]
        return [runnable.default, *others]
    if isinstance(runnable, RunnableConfigurableFields):
        return [runnable.default]
    return []


def _only_parses(step: object) -> bool:
    """Return whether a step is langchain-core's own, and asks no model."""
    if isinstance(step, (RunnablePick, AnswerParser)):
        return True
    own = type(step).__module__.startswith("langchain_core.output_parsers")
    return own and isinstance(step, BaseOutputParser)


def guarded_models(runnable: object) -> Iterator[Any]:
    """Yield the chat models that answer in a runnable."""
    if hasattr(type(runnable), "record_failure"):
        yield runnable
    for part in _parts(runnable):
        yield from guarded_models(part)


def takes_streams(runnable: object) -> bool:
    """Return whether a runnable's input is a stream of audio, not one item."""
    if isinstance(runnable, RunnableEach):
        return False
    return hasattr(type(_innermost(runnable)), "answers_streams")


def _innermost(runnable: object) -> object:
    """Return what gets the input in the end."""
    while not hasattr(type(runnable), "hears") and (parts := _parts(runnable)):
        runnable = parts[0]
    return runnable


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


async def _one(item: _Item) -> AsyncIterator[_Item]:
    yield item


async def _hidden_items(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for item in items:
        yield hide(item)
