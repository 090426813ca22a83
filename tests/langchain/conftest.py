"""Fixtures of the LangChain tests, and what the suites of langchain-tests need."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine; the plugin that would is switched off."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def benchmark() -> Callable[..., Any]:
    """Run what a standard test would time, once."""

    def run(timed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return timed(*args, **kwargs)

    return run
