"""Locks and threads of a parent process do not survive a fork: what replaces them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Holds locks or threads."""

    def begin_anew(self) -> None:
        """Make them anew; another thread of the parent may have held a lock."""


_ALIVE: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(held: Renewable) -> None:
    """Begin an object anew in every process that is forked from here on."""
    _ALIVE.add(held)


def _begin_anew_in_child() -> None:
    for held in list(_ALIVE):
        held.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
