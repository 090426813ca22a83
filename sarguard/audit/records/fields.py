"""The groups of fields that records are made of: closed, frozen, checked when built.

Nothing here holds content by default: sound and words are described by keyed HMACs
(`Pseudonym`), lengths and durations. Content that a policy asks to keep is in
`Content`: redacted, or as the commitment to a sealed copy outside the chain.
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

SCHEMA_VERSION = 2
"""The newest version of the record schema that this code writes and reads.

A record is written in the lowest version that knows its fields, so that older readers
can read every record that does not use a newer field.
"""

NO_RECORD = "0" * 64
"""What the first record names as the one before it."""

MAX_TEXT = 2000
"""Characters that a free text in a record keeps."""


def truncate(value: object) -> object:
    """Cut a text to `MAX_TEXT` characters and replace what UTF-8 cannot write."""
    if not isinstance(value, str):
        return value
    value = value.encode("utf-8", "replace").decode("utf-8")
    return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"


def round_number(value: float) -> float:
    """Round a number to six decimals: the shape that every JSON reader keeps."""
    return round(value, 6)


Text = Annotated[str, BeforeValidator(truncate)]
"""Words for people: cut at `MAX_TEXT` characters, never refused for their length."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A name that a caller or a policy chose."""

Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
"""A word from a closed list of some part of the library."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""

Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:+/=._-]{1,160}$")]
"""A digest of an artifact or policy, in the form that its own package writes."""

Pseudonym = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""An HMAC-SHA256 of content or of an identity, under the tenant's key."""

Moment = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{6}Z$"
    ),
]
"""A time: RFC 3339, UTC, microseconds."""

LogId = Annotated[str, StringConstraints(pattern=r"^log_[0-9A-Z]{26}$")]
"""The name of a ledger; it ties a record to the one ledger it was written to."""

Count = Annotated[int, Field(ge=0)]

Seq = Annotated[int, Field(ge=1)]
"""A record's number, from 1; its leaf in the Merkle tree is `seq - 1`."""

# Rounded when written, not when read: a verifier reads a million of them.
Number = Annotated[float, Field(allow_inf_nan=False), PlainSerializer(round_number)]
Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), PlainSerializer(round_number)
]


class FieldGroup(BaseModel):
    """Base of records and their parts: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class WriterRef(FieldGroup):
    """Process that wrote a record."""

    instance: Name
    """A name made when the log was opened."""
    pid: Count


class Header(FieldGroup):
    """Place, time and writer of a record; the ledger fills them in."""

    kind: str

    schema_version: Literal[1, 2] = 1
    log: LogId
    seq: Seq
    time: Moment
    """The wall clock when the record was written."""
    mono_ns: Count
    """The writer's monotonic clock; comparable within one writer only."""
    writer: WriterRef
    prev: Hash
    """The leaf hash of the record before this one."""
    spooled: Moment | None = None
    """When the record was made, if it had to wait because the ledger was not
    writable."""


class PolicyRef(FieldGroup):
    """Policy that held for a request."""

    id: Name
    version: Name | None = None
    digest: Digest
    tier: Name | None = None
    floor: Name | None = None
    mode: Name | None = None
    """`enforce` or `shadow`."""


class ModelRef(FieldGroup):
    """Model that answered."""

    id: Name
    revision: Name | None = None
    weights_digest: Digest | None = None
    dtype: Name | None = None
    device: Name | None = None


class SteeringRef(FieldGroup):
    """Steering that was attached."""

    bundle_digest: Digest
    method: Name | None = None
    layers: Count | None = None


class AudioDescription(FieldGroup):
    """Description of one clip, without its sound."""

    mark: Pseudonym | None = None
    """HMAC of the decoded samples."""
    seconds: Seconds
    sample_rate: Count | None = None
    channels: Count | None = None
    mime: Name | None = None


class InputDescription(FieldGroup):
    """Description of what came in, without its content."""

    audio: tuple[AudioDescription, ...] = ()
    text_mark: Pseudonym | None = None
    text_chars: Count = 0
    turns: Count = 1


class OutputDescription(FieldGroup):
    """Description of what went out, without its content."""

    text_mark: Pseudonym | None = None
    text_chars: Count = 0
    finish_reason: Code | None = None
    refusal: bool | None = None
    """Whether the text was read as a refusal; None if nobody looked."""
    refusal_rule: Name | None = None


class Content(FieldGroup):
    """Piece of content as the policy allows it: redacted or sealed.

    `redacted` content is in `text`. `encrypted` content is outside the chain: the
    record holds `commitment`, a salted hash of the sealed bytes, and the name of the
    key. Destroying that key erases the content while the chain stays valid.
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


class Score(FieldGroup):
    """Detector's score for a request, and the threshold it was compared with."""

    name: Code
    value: Number
    threshold: Number | None = None


class CheckVerdict(FieldGroup):
    """Verdict of one check on what came in or went out, or how a transcript was made.

    What is None is not written.
    """

    name: Name
    version: Name
    stage: Literal["input", "output", "transcript"]
    verdict: Literal[
        "allowed", "blocked", "raised", "noted", "failed", "timed_out", "transcribed"
    ]
    """`raised`: it raised the dose; `noted`: it flagged, and that is only noted;
    `failed`: it raised an error; `timed_out`: it took longer than it was given;
    `transcribed`: what was said was made into text."""
    score: Number | None = None
    """What the check made of it; higher is more harmful."""
    threshold: Number | None = None
    """Score from which it flags."""
    label: Name | None = None
    """What the check calls what it found."""
    raised_to: Name | None = None
    """The least tier or steering coefficient that it asked for."""


class AppliedDose(FieldGroup):
    """Steering coefficient of an answer, and what chose it."""

    mode: Name
    alpha: Number
    tier: Name | None = None
    scale: Number | None = None
    """Share of the full coefficient, where a gate chose it."""
    divergence: Number | None = None
    """How far steering moved the first token's distribution from the bare model's:
    Jensen-Shannon, in bits; only in shadow mode."""


class SteeringReceipt(FieldGroup):
    """Proof that every answer token was steered."""

    steered_positions: Count
    expected_positions: Count
    layers: Count
    bundle_digest: Digest
    """Digest of the vectors that were on the device when the answer was made."""
    attested: bool
    fault: Code | None = None


class TokenCounts(FieldGroup):
    """Token counts of a request; audio tokens are part of the prompt's."""

    prompt_tokens: Count = 0
    audio_tokens: Count = 0
    output_tokens: Count = 0


class Durations(FieldGroup):
    """Durations of a request, in seconds."""

    queue_s: Seconds | None = None
    audio_s: Seconds | None = None
    prefill_s: Seconds | None = None
    first_token_s: Seconds | None = None
    total_s: Seconds | None = None


class FallbackRef(FieldGroup):
    """Message given instead of an answer; it never names the rule behind it."""

    reason: Code
    locale: Name | None = None
    message_id: Name | None = None


class FaultRef(FieldGroup):
    """Error without its message, which may hold content."""

    type: Name
    code: Code | None = None
    stage: Code | None = None
