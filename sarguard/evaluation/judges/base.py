"""Who labels answers: the rules that ship, or a model behind an endpoint."""

from __future__ import annotations

from typing import Protocol

from sarguard.evaluation.judges.rules import Kind, Label, label


class Judge(Protocol):
    """Label one answer."""

    @property
    def name(self) -> str:
        """Return what identifies the judge in a report."""

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        """Return what an answer to a request is.

        Args:
            request: What was asked, in writing; empty where it is not known.
            reply: The whole answer.
            kind: Whether the request is harmful.
        """


class RuleJudge:
    """Label by `sarguard.evaluation.judges.rules`; the request is not read."""

    name = "rules"

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        """Return what the rules find."""
        return label(reply, kind=kind)
