"""From the events of a guarded answer to LangChain messages, whole or in chunks.

The content is always a string, so that a voice reads it out as it is. What is no
answer says so three times: in `response_metadata["outcome"]`, in `finish_reason`,
and as a standard refusal block in `content_blocks`, which is what LangChain's own
refusal middleware reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator

from langchain_sarguard.errors import AnswerRefusedError, AnswerThrownAwayError
from sarguard import Done, Outcome, Refusal, Reply, TextDelta

if TYPE_CHECKING:
    from langchain_core.messages.content import ContentBlock

PROVIDER = "sarguard"
# The speaker's own will, or the policy's; everything else went wrong.
_DECLINED = (Outcome.REFUSED, Outcome.BLOCKED)
_LET_OUT = (Outcome.ANSWERED, Outcome.ERROR_OPEN)


@dataclass(slots=True, kw_only=True)
class Hearing:
    """Collect the events of one answer."""

    model_name: str
    policy: str | None = None
    """Id, version and digest of the policy that was in force."""
    said: str = ""
    refusal: Refusal | None = None

    def hear(self, event: object) -> str | Reply:
        """Take an event and return what it adds to the text, or the reply at the end.

        A text that takes the place of an answer is said behind what was said already.
        """
        if isinstance(event, Done):
            return event.reply
        more = ""
        if isinstance(event, TextDelta):
            more = event.text
        elif isinstance(event, Refusal) and event.outcome not in _LET_OUT:
            self.refusal = event
            if event.outcome is not Outcome.REFUSED:
                more = f"\n{event.text}" if self.said else event.text
        self.said += more
        return more

    def message(self, reply: Reply) -> AIMessage:
        """Return the whole answer as a message."""
        return AIMessage(
            content=self.said,
            additional_kwargs=self._kwargs(),
            response_metadata=self._metadata(reply),
            usage_metadata=_usage(reply),
        )

    def last_chunk(self, reply: Reply) -> AIMessageChunk:
        """Return the chunk without text that ends a stream."""
        return AIMessageChunk(
            content="",
            additional_kwargs=self._kwargs(),
            response_metadata=self._metadata(reply),
            usage_metadata=_usage(reply),
            chunk_position="last",
        )

    def _kwargs(self) -> dict[str, Any]:
        return {} if self.refusal is None else {"refusal": self.refusal.text}

    def _metadata(self, reply: Reply) -> dict[str, Any]:
        guard = reply.guard
        metadata: dict[str, Any] = {
            "model_provider": PROVIDER,
            "model_name": self.model_name,
            "outcome": reply.outcome.value,
            "finish_reason": _finish_reason(reply),
            "alpha": guard.alpha,
            "bundle_digest": guard.bundle_digest,
            "audit_id": reply.audit_id,
            "policy": self.policy,
            "tier": guard.tier,
        }
        if self.refusal is not None:
            metadata["refusal"] = _refusal(reply)
        return {name: value for name, value in metadata.items() if value is not None}


def raise_if_withheld(message: BaseMessage) -> None:
    """Raise for everything but an answer; reads the metadata that is written here.

    Raises:
        AnswerRefusedError: The model declined, or the request was blocked.
        AnswerThrownAwayError: Something else went wrong.
    """
    outcome = Outcome(message.response_metadata["outcome"])
    found = f"there is no answer ({outcome.value})"
    if outcome in _DECLINED:
        raise AnswerRefusedError(f"{found}: {message.text}", raw_message=message)
    if outcome not in _LET_OUT:
        fault = message.response_metadata.get("refusal", {}).get("fault")
        raise AnswerThrownAwayError(f"{found}: {fault}", raw_message=message)


def content_blocks(message: AIMessage) -> list[ContentBlock]:
    """Return a message's standard content blocks, with a refusal as one of them."""
    if not isinstance(message.content, str):
        # Somebody rewrote the content; langchain-core then reads it by its own rules.
        raise NotImplementedError
    blocks: list[dict[str, Any]] = []
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    if "refusal" in message.additional_kwargs:
        blocks.append(
            {
                "type": "refusal",
                "refusal": message.additional_kwargs["refusal"],
                "extras": message.response_metadata.get("refusal", {}),
            }
        )
    # The refusal block is newer than the oldest langchain-core that is supported.
    return cast("list[ContentBlock]", blocks)


def _finish_reason(reply: Reply) -> str:
    return "content_filter" if reply.outcome in _DECLINED else reply.finish_reason


def _refusal(reply: Reply) -> dict[str, str]:
    # Only the wording tells that a model declines; the guard knows what it did.
    source = "wording" if reply.outcome is Outcome.REFUSED else "guard"
    found = {"category": reply.outcome.value, "detected_by": source}
    return found if reply.guard.fault is None else {**found, "fault": reply.guard.fault}


def _usage(reply: Reply) -> UsageMetadata:
    usage = reply.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.prompt_tokens + usage.output_tokens,
        input_token_details=InputTokenDetails(audio=usage.audio_tokens),
    )


register_translator(PROVIDER, content_blocks, content_blocks)
