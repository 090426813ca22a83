"""What the chat model raises.

All fit into langchain-core's own tree as far as the installed version has it:
`ModelRefusalError` came with 1.7.5. What is wrong with the input is a `ValueError`
as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Say which message or setting cannot be used, and what to do about it."""


class AudioHandleError(InvalidInputError):
    """Say that there is no clip of a name in the vault."""


class UnguardedModelError(_ModelError, TypeError):
    """Say that something unguarded was about to answer in the place of a guard."""


class AnswerRefusedError(_RefusalError):
    """Say that the model declined, or that the request was blocked.

    `raw_message` holds what the caller is to hear.
    """

    def __init__(self, message: str, *, raw_message: BaseMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message


class AnswerThrownAwayError(_ModelError):
    """Say that there is no whole answer: a fault, a timeout or a cancel.

    `raw_message` holds what the caller is to hear.
    """

    def __init__(self, message: str, *, raw_message: BaseMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message
