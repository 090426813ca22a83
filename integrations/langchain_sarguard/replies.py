"""From a guarded reply to a LangChain message.

The content is always a string, so that a voice reads it out as it is. What is no
answer says so three times: in `response_metadata["outcome"]`, in `finish_reason`,
and as a standard refusal block in `content_blocks`, which is what LangChain's own
refusal middleware reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator

from sarguard import Outcome, Reply

if TYPE_CHECKING:
    from langchain_core.messages.content import ContentBlock

PROVIDER = "sarguard"


def to_message(reply: Reply, *, model_name: str, stop: Sequence[str] = ()) -> AIMessage:
    """Return a reply as a message.

    Args:
        reply: What the client gave back.
        model_name: Put into the metadata.
        stop: What the model said ends before the first of these. The fallback text
            that stands in for an answer is left whole.
    """
    by_model = reply.outcome in (Outcome.ANSWERED, Outcome.REFUSED)
    text = cut_at_stop(reply.text, stop) if by_model else reply.text
    metadata: dict[str, Any] = {
        "model_provider": PROVIDER,
        "model_name": model_name,
        "outcome": reply.outcome.value,
        "finish_reason": _finish_reason(reply, cut=text != reply.text),
        "alpha": reply.guard.alpha,
        "bundle_digest": reply.guard.bundle_digest,
    }
    withheld = reply.outcome is not Outcome.ANSWERED
    if withheld:
        metadata["refusal"] = _refusal(reply)
    return AIMessage(
        content=text,
        additional_kwargs={"refusal": text} if withheld else {},
        response_metadata=metadata,
        usage_metadata=_usage(reply),
    )


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop sequence in it."""
    found = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(found)] if found else text


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


def _finish_reason(reply: Reply, *, cut: bool) -> str:
    if reply.outcome is Outcome.REFUSED:
        return "content_filter"
    return "stop" if cut else reply.finish_reason


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
