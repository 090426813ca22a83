"""The command line: run one command, and turn every failure into one clean line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sarguard import __version__
from sarguard.cli import ask, bench, calibrate, demo, doctor, models, policy
from sarguard.cli.audit import parser as audit
from sarguard.cli.evaluate import command as evaluate
from sarguard.cli.options import Command
from sarguard.cli.screen import quiet_libraries
from sarguard.errors import AuditIntegrityError, SarguardError
from sarguard.extras import missing_extra

USAGE_ERROR = 2
INTERNAL_ERROR = 1
INTERRUPTED = 130
READER_GONE = 141
TERMINATED = 143
"""As a shell reports a program that SIGPIPE, and one that SIGTERM, ended."""

_COMMANDS = (demo, ask, evaluate, calibrate, bench, models, policy, audit, doctor)
_EPILOG = """\
examples:
  sarguard demo                           see the guard at work, on this machine
  sarguard ask question.wav               ask the reference model, guarded
  sarguard doctor                         what is missing, and how to fix it

A command's own options: sarguard COMMAND --help
"""


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: to end as after Ctrl-C, with what is open closed and recorded."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Returns:
        0 for success, 1 if something is broken, 2 for an error in the request, 130
        if interrupted, 141 if the reader of its output went away, 143 if terminated.
    """
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    run: Command = options.run
    try:
        quiet_libraries()
        with _ending_by_sigterm():
            status = run(options)
        sys.stdout.flush()
        return status
    except AuditIntegrityError as error:
        return _fail(str(error), INTERNAL_ERROR)
    except SarguardError as error:
        return _fail(str(error), USAGE_ERROR)
    except BrokenPipeError:
        # The reader of the output is gone. The interpreter flushes stdout as it exits,
        # which would fail again: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except _Terminated:
        sys.stderr.write("\nsarguard: terminated\n")
        return TERMINATED
    except KeyboardInterrupt:
        sys.stderr.write("\nsarguard: interrupted\n")
        return INTERRUPTED
    except ImportError as error:
        return _fail(
            f"a package cannot be imported: {error}. `sarguard doctor` says which, "
            "and how to install it",
            INTERNAL_ERROR,
        )
    except OSError as error:
        return _fail(str(error), USAGE_ERROR)
    except Exception as error:
        if options.traceback:
            raise
        return _fail(
            f"unexpected {type(error).__name__}: {error}. This is a defect: please "
            "report it with what `sarguard --traceback ...` shows",
            INTERNAL_ERROR,
        )


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how the line goes on, and exit.

    Raises:
        MissingDependencyError: argcomplete is not installed.
    """
    try:
        import argcomplete
    except ImportError as error:
        raise missing_extra("completion in a shell", "completion", error) from error
    argcomplete.autocomplete(parser)


@contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which containers are stopped, unwind the block.

    Its default ends the process at once: a request would have no closing record, and
    the ledger no signature.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set a handler, and only it gets the signal.
        return

    def end(_number: int, _frame: object) -> None:
        # Once: a second one must not break off what the first has set going.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="sarguard",
        description="Guard large audio-language models with SARSteer, always on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"sarguard {__version__}"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an unexpected error arose"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"sarguard: error: {message}\n")
    return status
