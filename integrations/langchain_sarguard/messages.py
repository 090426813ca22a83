"""The messages of a spoken conversation, oldest first, of bounded length."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage


def opening(system: str) -> list[BaseMessage]:
    """Return how a conversation begins."""
    return [SystemMessage(system)] if system else []


class Conversation:
    """Remember the last turns of one conversation."""

    def __init__(self, *, system: str, turns: int) -> None:
        self._opening = opening(system)
        self._most = 2 * turns
        self._said: list[BaseMessage] = []

    def ask(self, question: HumanMessage) -> Sequence[BaseMessage]:
        """Return the messages of the next request."""
        return [*self._opening, *self._said, question]

    def note(self, question: HumanMessage, answer: str) -> None:
        """Remember what was asked, and what was said to it."""
        said = [*self._said, question, AIMessage(answer)]
        self._said = said[-self._most :] if self._most else []
