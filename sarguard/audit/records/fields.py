"""The values that records are made of: closed, frozen, checked when built.

Nothing here holds content by default: sound and words are named by keyed HMACs
(`Mark`), lengths and durations. Content that a policy asks to keep stands in
`Content`, redacted, or as the commitment to a sealed copy outside the chain.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)

CLIP = 2000
"""The most characters that a free text in a record keeps."""


def clip(value: object) -> object:
    """Cut a text to `CLIP` characters and replace what UTF-8 cannot write."""
    if not isinstance(value, str):
        return value
    value = value.encode("utf-8", "replace").decode("utf-8")
    return value if len(value) <= CLIP else value[: CLIP - 1] + "…"


def shorten(value: float) -> float:
    """Round a number to six decimals: the shape that every JSON reader keeps."""
    return round(value, 6)


Text = Annotated[str, BeforeValidator(clip)]
"""Words for people: cut at `CLIP` characters, never refused for their length."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A name that a caller or a policy chose."""

Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
"""A word from a closed list of some part of the library."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""

Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:+/=._-]{1,160}$")]
"""A digest of an artifact or policy, in the form its own room writes it."""

Mark = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""An HMAC-SHA256 of content or of an identity, under the tenant's key."""

Moment = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{6}Z$"
    ),
]
"""A time: RFC 3339, UTC, microseconds."""

Count = Annotated[int, Field(ge=0)]
# Rounded when written, not when read: a verifier reads a million of them.
Number = Annotated[float, Field(allow_inf_nan=False), PlainSerializer(shorten)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), PlainSerializer(shorten)]


class Fact(BaseModel):
    """Be closed and frozen: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Writer(Fact):
    """Name the process that wrote a record."""

    instance: Name
    """A name made when the log was opened."""
    pid: Count


class PolicyRef(Fact):
    """Name the policy that held for a request."""

    id: Name
    version: Name | None = None
    digest: Digest
    tier: Name | None = None
    floor: Name | None = None
    mode: Name | None = None
    """`enforce` or `shadow`."""


class ModelRef(Fact):
    """Name the model that answered."""

    id: Name
    revision: Name | None = None
    weights_digest: Digest | None = None
    dtype: Name | None = None
    device: Name | None = None


class SteeringRef(Fact):
    """Name the steering that was attached."""

    bundle_digest: Digest
    method: Name | None = None
    layers: Count | None = None


class AudioFact(Fact):
    """Describe one clip without holding it."""

    mark: Mark | None = None
    """HMAC of the decoded samples."""
    seconds: Seconds
    sample_rate: Count | None = None
    channels: Count | None = None
    mime: Name | None = None


class InputFact(Fact):
    """Describe what came in without holding it."""

    audio: tuple[AudioFact, ...] = ()
    text_mark: Mark | None = None
    text_chars: Count = 0
    turns: Count = 1


class OutputFact(Fact):
    """Describe what went out without holding it."""

    text_mark: Mark | None = None
    text_chars: Count = 0
    finish_reason: Code | None = None
    refusal: bool | None = None
    """Whether the text was read as a refusal; None if nobody looked."""
    refusal_rule: Name | None = None


class Content(Fact):
    """Hold a piece of content as its policy allows: redacted or sealed.

    `redacted` content stands in `text`. `encrypted` content stands outside the
    chain: the record holds `commitment`, a salted hash of the sealed bytes, and
    the name of the key, whose destruction erases the content while the chain
    stays valid.
    """

    part: Code
    """What it is: `input_text`, `input_audio`, `output_text`, `transcript` ..."""
    mode: Literal["redacted", "encrypted"]
    text: Annotated[str, StringConstraints(max_length=100_000)] | None = None
    engine: Name | None = None
    """The redactor or cipher, with its version."""
    redactions: Count | None = None
    commitment: Hash | None = None
    content_id: Name | None = None
    key_id: Name | None = None


class Score(Fact):
    """Give a detector's score for a request, and the threshold it was held to."""

    name: Code
    value: Number
    threshold: Number | None = None


class Dose(Fact):
    """Say how strongly the answer was steered."""

    mode: Name
    alpha: Number
    tier: Name | None = None
    scale: Number | None = None
    """Share of the full strength, where a gate chose it."""
    divergence: Number | None = None
    """How far steering moved the first token's distribution from the bare model's:
    Jensen-Shannon, in bits; only in shadow mode."""


class SteeringReceipt(Fact):
    """Prove that every answer token was steered."""

    steered_positions: Count
    expected_positions: Count
    layers: Count
    bundle_digest: Digest
    """Digest of the vectors that were resident when the answer was made."""
    attested: bool
    fault: Code | None = None


class UsageFact(Fact):
    """Count tokens; audio tokens are part of the prompt's."""

    prompt_tokens: Count = 0
    audio_tokens: Count = 0
    output_tokens: Count = 0


class TimingsFact(Fact):
    """Give a request's durations in seconds."""

    queue_s: Seconds | None = None
    audio_s: Seconds | None = None
    prefill_s: Seconds | None = None
    first_token_s: Seconds | None = None
    total_s: Seconds | None = None


class FallbackFact(Fact):
    """Name the message given instead of an answer, never the rule behind it."""

    reason: Code
    locale: Name | None = None
    message_id: Name | None = None


class FaultFact(Fact):
    """Name an error without its message, which may hold content."""

    type: Name
    code: Code | None = None
    stage: Code | None = None
