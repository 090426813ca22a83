"""From the events of a guarded answer to LangChain messages, whole or in chunks.

The content is always a string, so that it can be spoken as it is. A message that is not
an answer says so in three places: in `response_metadata["outcome"]`, in
`finish_reason`, and by a standard refusal block in `content_blocks`, which is what
LangChain's own refusal middleware reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator

from langchain_sarguard.errors import AnswerFailedError, AnswerRefusedError
from sarguard import Done, Outcome, Refusal, Reply, TextDelta

if TYPE_CHECKING:
    from langchain_core.messages.content import ContentBlock

PROVIDER = "sarguard"
# Decided by the model or the policy; every other outcome without an answer is a fault.
_DECLINED = (Outcome.REFUSED, Outcome.BLOCKED)
_ANSWERED = (Outcome.ANSWERED, Outcome.ERROR_OPEN)


@dataclass(slots=True, kw_only=True)
class ResponseBuilder:
    """Builder of one answer's message from the client's events."""

    model_name: str
    policy: str | None = None
    """Id, version and digest of the policy that was in force."""
    text: str = ""
    refusal: Refusal | None = None

    def add(self, event: object) -> str | Reply:
        """Return what an event adds to the text, or the reply that ends the stream."""
        if isinstance(event, Done):
            return event.reply
        added = ""
        if isinstance(event, TextDelta):
            added = event.text
        elif isinstance(event, Refusal) and event.outcome not in _ANSWERED:
            self.refusal = event
            # The text of a refusal was streamed already. Any other text replaces the
            # answer, but chunks cannot be taken back: it goes on a line of its own.
            if event.outcome is not Outcome.REFUSED:
                added = f"\n{event.text}" if self.text else event.text
        self.text += added
        return added

    def message(self, reply: Reply) -> AIMessage:
        """Return the whole answer as a message."""
        return AIMessage(
            content=self.text,
            additional_kwargs=self._kwargs(),
            response_metadata=self._metadata(reply),
            usage_metadata=_usage(reply),
        )

    def last_chunk(self, reply: Reply) -> AIMessageChunk:
        """Return the last chunk of a stream, which has the metadata and no text."""
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
            "reading": guard.reading,
            "left_out": guard.left_out or None,
            "trimmed": guard.trimmed or None,
            "cut_short": guard.cut_short or None,
        }
        if self.refusal is not None:
            metadata["refusal"] = _refusal(reply)
        return {name: value for name, value in metadata.items() if value is not None}


def raise_unless_answered(message: BaseMessage) -> None:
    """Raise for a message that is not an answer, by the metadata written above.

    Raises:
        AnswerRefusedError: The model declined, or the request was blocked.
        AnswerFailedError: There was a fault, a limit, a timeout or a cancellation.
    """
    outcome = Outcome(message.response_metadata["outcome"])
    found = f"there is no answer ({outcome.value})"
    if outcome in _DECLINED:
        raise AnswerRefusedError(f"{found}: {message.text}", raw_message=message)
    if outcome not in _ANSWERED:
        fault = message.response_metadata.get("refusal", {}).get("fault")
        raise AnswerFailedError(f"{found}: {fault}", raw_message=message)


def content_blocks(message: AIMessage) -> list[ContentBlock]:
    """Return the standard content blocks of a message, a refusal among them."""
    if not isinstance(message.content, str):
        # Rewritten by someone else: langchain-core then applies its own rules.
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
    # Untyped: the oldest supported langchain-core has no type for refusal blocks.
    return cast("list[ContentBlock]", blocks)


def _finish_reason(reply: Reply) -> str:
    return "content_filter" if reply.outcome in _DECLINED else reply.finish_reason


def _refusal(reply: Reply) -> dict[str, str]:
    # A refusal by the model is inferred from its wording; the guard knows its own acts.
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
