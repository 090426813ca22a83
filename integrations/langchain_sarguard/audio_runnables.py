"""Runnables that take sound in, and pipes behind them that never trace it.

langchain-core records what goes into a sequence, so a sequence that begins with sound
would hand that sound to every tracer. Here only what comes out is passed on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import coerce_to_runnable

from langchain_sarguard.guarded_runnables import check_guarded, keep


class SoundRunnable(Runnable[Any, Any]):
    """Take sound in without recording it; what it calls records names of clips."""

    def __or__(self, other: Any) -> Any:  # noqa: ANN401
        return SoundPipe(self, coerce_to_runnable(other))

    def pipe(self, *others: Any, name: str | None = None) -> Any:  # noqa: ANN401
        """Return a pipe that ends with the last of the others."""
        piped: Any = self
        for other in others:
            piped = piped | other
        piped.name = name
        return piped

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[Any, Any]],
        **settings: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return this runnable with guarded ones behind it.

        Raises:
            UnguardedModelError: One of them is not guarded.
        """
        check_guarded(fallbacks, "a fallback")
        return keep(super().with_fallbacks(fallbacks, **settings))


class SoundPipe(SoundRunnable):
    """Give what one runnable makes of sound to the next one."""

    def __init__(self, first: Runnable[Any, Any], rest: Runnable[Any, Any]) -> None:
        self._first = first
        self._rest = rest

    def __or__(self, other: Any) -> Any:  # noqa: ANN401
        return SoundPipe(self._first, self._rest | coerce_to_runnable(other))

    def invoke(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return what the end of the pipe makes of the sound."""
        return self._rest.invoke(self._first.invoke(input, config, **kwargs), config)

    async def ainvoke(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return what the end of the pipe makes of the sound."""
        heard = await self._first.ainvoke(input, config, **kwargs)
        return await self._rest.ainvoke(heard, config)

    def stream(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[Any]:
        """Yield what the end of the pipe makes of the sound."""
        yield from self._rest.transform(
            self._first.stream(input, config, **kwargs), config
        )

    async def astream(
        self,
        input: Any,  # noqa: ANN401
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[Any]:
        """Yield what the end of the pipe makes of the sound."""
        heard = self._first.astream(input, config, **kwargs)
        async for item in self._rest.atransform(heard, config):
            yield item

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[Any]:
        """Yield what the end of the pipe makes of a stream of sound."""
        yield from self._rest.transform(
            self._first.transform(input, config, **kwargs), config
        )

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> AsyncIterator[Any]:
        """Yield what the end of the pipe makes of a stream of sound."""
        heard = self._first.atransform(input, config, **kwargs)
        async for item in self._rest.atransform(heard, config):
            yield item
