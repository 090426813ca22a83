"""What a record may hold of content: pseudonyms and lengths, unless a policy asks more.

`none` keeps pseudonyms, lengths and durations. `redacted` also keeps texts without
what looks personal; sound is never kept. `encrypted` keeps everything, sealed under
keys whose destruction erases it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sarguard.audit.privacy.encryption import SealedStore, Sealer
from sarguard.audit.privacy.keyring import Keyring
from sarguard.audit.privacy.pseudonyms import Pseudonyms
from sarguard.audit.privacy.redaction import PatternRedactor, Redactor
from sarguard.audit.records.fields import (
    AudioDescription,
    Content,
    InputDescription,
    OutputDescription,
)
from sarguard.errors import ConfigurationError

ContentMode = Literal["none", "redacted", "encrypted"]

Clip = tuple[NDArray[np.float32], int]
"""Mono samples of shape (samples,) in [-1, 1], and their rate in Hz."""

MAX_TEXT = 100_000
"""Characters of a redacted text that a record keeps."""


def keyring_at(ledger: str | Path) -> Path:
    """Return where a ledger's secrets are kept: beside it, with `.keys` added."""
    return Path(f"{ledger}.keys")


def sealed_at(ledger: str | Path) -> Path:
    """Return where a ledger's sealed content is kept: beside it, `.sealed` added."""
    return Path(f"{ledger}.sealed")


class Privacy:
    """Descriptions of content for records, and what the policy allows to keep."""

    def __init__(
        self,
        sealer: Sealer,
        *,
        content: ContentMode = "none",
        redactor: Redactor | None = None,
    ) -> None:
        if content not in get_args(ContentMode):
            raise ConfigurationError(
                f"content={content!r}: use {', '.join(get_args(ContentMode))}"
            )
        self.sealer = sealer
        self.keyring = sealer.keyring
        self.content = content
        self.redactor = redactor or PatternRedactor()

    @classmethod
    def open(
        cls,
        ledger: str | Path,
        *,
        content: ContentMode = "none",
        keyring: str | Path | None = None,
        sealed: str | Path | None = None,
        redactor: Redactor | None = None,
    ) -> Privacy:
        """Use the files beside a ledger, or others.

        Args:
            ledger: the ledger's file.
            content: what is kept of sound and words, beside pseudonyms and lengths.
            keyring: the file of secrets; it is made when first needed. A place that
                copies of the ledger do not reach is best.
            sealed: the file of sealed content.
            redactor: takes out what is personal; by default, patterns.
        """
        keys = Keyring(keyring or keyring_at(ledger))
        store = SealedStore(sealed or sealed_at(ledger))
        return cls(Sealer(keys, store), content=content, redactor=redactor)

    def pseudonyms(self, tenant: str | None = None) -> Pseudonyms:
        """Return a tenant's pseudonyms; records hold their `key_id`."""
        return self.keyring.pseudonyms(tenant)

    def describe_input(
        self,
        *,
        clips: Sequence[Clip] = (),
        text: str = "",
        turns: int = 1,
        tenant: str | None = None,
    ) -> InputDescription:
        """Describe what came in, without holding it."""
        pseudonyms = self.pseudonyms(tenant)
        return InputDescription(
            audio=tuple(
                _describe_clip(pseudonyms, samples, rate) for samples, rate in clips
            ),
            text_mark=pseudonyms.text(text) if text else None,
            text_chars=len(text),
            turns=turns,
        )

    def describe_output(
        self,
        text: str,
        *,
        tenant: str | None = None,
        finish_reason: str | None = None,
        refusal: bool | None = None,
        refusal_rule: str | None = None,
    ) -> OutputDescription:
        """Describe what went out, without holding it."""
        return OutputDescription(
            text_mark=self.pseudonyms(tenant).text(text) if text else None,
            text_chars=len(text),
            finish_reason=finish_reason,
            refusal=refusal,
            refusal_rule=refusal_rule,
        )

    def keep_text(
        self,
        part: str,
        text: str,
        *,
        tenant: str | None = None,
        session: str | None = None,
    ) -> tuple[Content, ...]:
        """Keep a text as the policy allows; return what the record says of it.

        Args:
            part: what it is: `input_text`, `output_text`, `transcript` ...
            text: the text.
            tenant: the tenant that it belongs to.
            session: pseudonym of the caller's session.

        Raises:
            AuditWriteError: if sealed content cannot be kept.
        """
        if self.content == "none" or not text:
            return ()
        if self.content == "encrypted":
            # JSON can carry half of a surrogate pair, which UTF-8 cannot write.
            data = text.encode("utf-8", "replace")
            return (self.sealer.seal(part, data, tenant=tenant, session=session),)
        found = self.redactor.redact(text)
        return (
            Content(
                part=part,
                mode="redacted",
                # Cut after redaction: half of a number may fit no pattern.
                text=found.text[:MAX_TEXT].encode("utf-8", "replace").decode(),
                engine=self.redactor.name,
                redactions=found.count,
            ),
        )

    def keep_audio(
        self,
        part: str,
        clip: Clip,
        *,
        tenant: str | None = None,
        session: str | None = None,
    ) -> tuple[Content, ...]:
        """Keep a clip, sealed, if the policy is `encrypted`; else keep nothing."""
        if self.content != "encrypted":
            return ()
        data = _write_flac(*clip)
        return (self.sealer.seal(part, data, tenant=tenant, session=session),)


def _describe_clip(
    pseudonyms: Pseudonyms, samples: NDArray[np.float32], sample_rate: int
) -> AudioDescription:
    return AudioDescription(
        mark=pseudonyms.audio(samples, sample_rate),
        seconds=len(samples) / sample_rate,
        sample_rate=sample_rate,
        channels=1,
    )


def _write_flac(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    import soundfile  # type: ignore[import-untyped]

    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
