"""Errors of the chat model, placed in langchain-core's own tree.

That tree depends on the installed version (`ModelRefusalError` came with 1.7.5); what
it lacks is replaced by its nearest ancestor. Invalid input is a `ValueError` as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core import exceptions

if TYPE_CHECKING:
    from langchain_core.exceptions import LangChainException as _InvalidRequest
    from langchain_core.exceptions import LangChainException as _ModelError
    from langchain_core.exceptions import LangChainException as _RefusalError
    from langchain_core.messages import BaseMessage
else:
    _ModelError = getattr(exceptions, "ModelError", exceptions.LangChainException)
    _RefusalError = getattr(exceptions, "ModelRefusalError", _ModelError)
    _InvalidRequest = getattr(exceptions, "ModelInvalidRequestError", _ModelError)


class InvalidInputError(_InvalidRequest, ValueError):
    """A message or a setting that cannot be used."""


class AudioHandleError(InvalidInputError):
    """A handle without a clip in the audio store."""


class UnguardedModelError(_ModelError, TypeError):
    """An unguarded runnable where only a guarded one may answer."""


class AnswerRefusedError(_RefusalError):
    """A refusal by the model, or a request that was blocked.

    `raw_message` holds the text for the caller.
    """

    def __init__(self, message: str, *, raw_message: BaseMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), str(self), self.raw_message)


class AnswerFailedError(_ModelError):
    """A fault, a timeout or a cancellation in place of a whole answer.

    `raw_message` holds the text for the caller.
    """

    def __init__(self, message: str, *, raw_message: BaseMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), str(self), self.raw_message)


def _rebuilt(kind: Any, message: str, raw_message: BaseMessage) -> Any:
    """Return an error that was pickled or copied."""
    return kind(message, raw_message=raw_message)
