"""What `ChatSafeAudio` raises in place of an answer, where it was asked to raise.

Both fit into langchain-core's own tree as far as the installed version has it:
`ModelRefusalError` came with 1.7.5, `ModelError` shortly before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core import exceptions

if TYPE_CHECKING:
    from langchain_core.exceptions import LangChainException as _ModelError
    from langchain_core.exceptions import LangChainException as _RefusalError
    from langchain_core.messages import AIMessage
else:
    _ModelError = getattr(exceptions, "ModelError", exceptions.LangChainException)
    _RefusalError = getattr(exceptions, "ModelRefusalError", _ModelError)


class AnswerRefusedError(_RefusalError):
    """Say that the model declined; `raw_message` holds what it said."""

    def __init__(self, message: str, *, raw_message: AIMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message


class AnswerThrownAwayError(_ModelError):
    """Say that steering could not be proven, so there is no answer.

    `raw_message` holds the fallback text.
    """

    def __init__(self, message: str, *, raw_message: AIMessage) -> None:
        super().__init__(message)
        self.raw_message = raw_message
