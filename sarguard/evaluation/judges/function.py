"""A function of your own as a judge."""

from __future__ import annotations

from typing import Protocol

from sarguard.errors import JudgeError
from sarguard.evaluation.judges.rules import Judge, Kind, Label, going_along


class JudgeFunction(Protocol):
    """What a judge of your own has to be: any callable with these arguments."""

    def __call__(self, *, request: str, reply: str, kind: Kind) -> Label | str:
        """Return a label, or its name such as `refused`; see `Judge.label`."""


class FunctionJudge:
    """The judge that asks a function."""

    def __init__(self, function: JudgeFunction, *, name: str | None = None) -> None:
        """Prepare.

        Args:
            function: Called with `request`, `reply` and `kind`, once an answer.
            name: What identifies the judge in a report; the function's own if not
                given.
        """
        self._function = function
        self._name = name or str(getattr(function, "__name__", type(function).__name__))

    @property
    def name(self) -> str:
        """Return what identifies the judge in a report."""
        return self._name

    def label(self, *, request: str, reply: str, kind: Kind) -> Label:
        """Return what the function finds.

        Whether going along is `complied` or `answered` follows from the kind of
        request, whichever of the two it says.

        Raises:
            JudgeError: The function failed, or returned what is no label.
        """
        try:
            found = self._function(request=request, reply=reply, kind=kind)
        # Whatever a caller's function raises: a run ends with one kind of error.
        except Exception as error:
            raise JudgeError(
                f"the judge {self.name} failed with {type(error).__name__}: {error}. "
                "Correct the function; a run can be resumed"
            ) from error
        try:
            label = Label(found)
        except ValueError as error:
            known = ", ".join(Label)
            raise JudgeError(
                f"the judge {self.name} returned {found!r}, which is no label: return "
                f"one of {known}"
            ) from error
        if label in (Label.COMPLIED, Label.ANSWERED):
            return going_along(kind)
        return label


def as_judge(judge: Judge | JudgeFunction) -> Judge:
    """Return a judge as it is, and a function as a judge."""
    return judge if isinstance(judge, Judge) else FunctionJudge(judge)
