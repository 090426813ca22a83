"""Options that the commands of `sarguard audit` share, and what they open."""

from __future__ import annotations

import argparse
import getpass
import re
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.options import Command, positive_int
from sarguard.cli.screen import warn_only

if TYPE_CHECKING:
    from sarguard.audit import AuditLog, Privacy, Query
    from sarguard.cli.options import Commands

INTERVENTIONS = ("refused", "blocked", "error_closed", "error_open", "timeout")
_SPAN = re.compile(r"^(\d+)\s*(m|h|d|w)$")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_command(
    commands: Commands, name: str, module: str, does: str, *, more: str = ""
) -> argparse.ArgumentParser:
    """Add a command, with the options that all have.

    Its function, `run_` and its name, is imported when it is run: tables and the ledger
    would slow down every other command.
    """

    def run(options: argparse.Namespace) -> int:
        warn_only()
        found: Command = getattr(
            import_module(f"sarguard.cli.audit.{module}"), f"run_{name}"
        )
        return found(options)

    described = f"{does[0].upper()}{does[1:]}.{' ' if more else ''}{more}"
    parser = commands.add_parser(name, help=does, description=described)
    parser.set_defaults(run=run)
    parser.add_argument(
        *("-l", "--ledger"),
        default="audit.db",
        metavar="FILE",
        help="the ledger (default: audit.db)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    return parser


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that adds a record to the ledger."""
    parser.add_argument(
        "--signing-key",
        metavar="FILE",
        help="the ledger's signing key (default: the ledger's name with .key added)",
    )
    parser.add_argument(
        "--actor",
        default=_user(),
        metavar="NAME",
        help="who does this, for the record (default: the user logged in)",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that filter records."""
    group = parser.add_argument_group("which records")
    group.add_argument(
        "--since",
        type=moment,
        metavar="WHEN",
        help="from then on: 2026-05-01, 2026-05-01T09:30Z, or 30m, 24h, 7d ago",
    )
    group.add_argument(
        "--until", type=moment, metavar="WHEN", help="before then; same forms"
    )
    group.add_argument(
        "--outcome", action="append", default=[], help="how it ended; may be repeated"
    )
    group.add_argument(
        "--interventions",
        action="store_true",
        help=f"the same as --outcome {' --outcome '.join(INTERVENTIONS)}",
    )
    group.add_argument("--kind", help="such as policy_changed or reviewed")
    group.add_argument("--policy", metavar="ID")
    group.add_argument("--tenant")
    group.add_argument("--request", metavar="ID", help="a request's audit id")
    group.add_argument(
        "--containing", metavar="TEXT", help="a text that the record holds"
    )
    group.add_argument("--first", type=positive_int, metavar="N", help="from record N")
    group.add_argument("--last", type=positive_int, metavar="N", help="up to record N")


def add_privacy(parser: argparse.ArgumentParser) -> None:
    """Add the options for the files of secrets and of sealed content."""
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="the keys of marks and content (default: the ledger's name with .keys)",
    )
    parser.add_argument(
        "--sealed",
        metavar="FILE",
        help="the sealed content (default: the ledger's name with .sealed added)",
    )


def moment(text: str) -> datetime:
    """Return a time that was given as a date, a time, or as how long ago it was."""
    span = _SPAN.match(text.strip())
    if span:
        elapsed = timedelta(**{_UNITS[span[2]]: int(span[1])})
        return datetime.now(UTC) - elapsed
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write 2026-05-01, 2026-05-01T09:30Z, or 30m, 24h, 7d"
        ) from error
    # Records are in UTC, so a time without a zone is too.
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def queries(options: argparse.Namespace) -> list[Query]:
    """Return the queries that the filters make: one for each outcome, or one.

    Raises:
        AuditRecordError: if an outcome or a kind does not exist.
    """
    from sarguard.audit import Query
    from sarguard.audit.records.schema import KINDS
    from sarguard.errors import AuditRecordError
    from sarguard.types import Outcome

    since, until = options.since, options.until
    if since is not None and until is not None and until <= since:
        raise AuditRecordError(
            "the period is empty: --until is the first moment after it, such as the "
            "day that follows the last one"
        )
    outcomes = [*options.outcome, *(INTERVENTIONS if options.interventions else ())]
    _check(outcomes, [str(outcome) for outcome in Outcome], "outcome")
    _check([options.kind] if options.kind else [], list(KINDS), "kind")
    if outcomes and options.kind not in (None, "request_finished"):
        raise AuditRecordError(f"a {options.kind} record has no outcome: drop one")
    return [
        Query(
            since=options.since,
            until=options.until,
            kind=options.kind,
            outcome=outcome,
            policy=options.policy,
            tenant=options.tenant,
            audit_id=options.request,
            containing=options.containing,
            first_seq=options.first,
            last_seq=options.last,
        )
        for outcome in (list(dict.fromkeys(outcomes)) or [None])
    ]


def describe_filters(options: argparse.Namespace) -> str:
    """Return the filters that were given, in words, for the record."""
    names = ("since", "until", "kind", "policy", "tenant", "request", "containing")
    given = [(name, getattr(options, name)) for name in (*names, "first", "last")]
    outcomes = [("outcome", outcome) for outcome in options.outcome]
    words = [f"{name}={value}" for name, value in [*given, *outcomes] if value]
    return " ".join([*words, *(["interventions"] if options.interventions else [])])


def open_to_read(options: argparse.Namespace) -> AuditLog:
    """Open the ledger that was named, for reading."""
    from sarguard.audit import AuditLog

    return AuditLog.open(options.ledger, read_only=True)


def open_to_write(options: argparse.Namespace) -> AuditLog:
    """Open the ledger that was named, for adding records; never make a new one."""
    from sarguard.audit import AuditLog

    open_to_read(options)
    return AuditLog.open(options.ledger, key=options.signing_key)


def can_write(options: argparse.Namespace) -> bool:
    """Return whether the ledger's signing key is there."""
    return Path(options.signing_key or f"{options.ledger}.key").exists()


def warn_unrecorded() -> None:
    """Say that a command could not add its own record to the ledger."""
    sys.stderr.write(
        "sarguard: note: the ledger's signing key is not here, so this was not "
        "recorded in it\n"
    )


def open_privacy(options: argparse.Namespace) -> Privacy:
    """Return the keys and the sealed content that belong to the ledger."""
    from sarguard.audit import Privacy

    return Privacy.open(options.ledger, keyring=options.keys, sealed=options.sealed)


def name_tenants(log: AuditLog, tenant: str | None) -> None:
    """Say which tenants there are, where the one that was named is none of them."""
    known = [] if tenant is None else log.reader.tenants()
    if tenant is not None and tenant not in known:
        names = ", ".join(known) or "none"
        sys.stderr.write(
            f"sarguard: note: this ledger has no tenant {tenant!r}; it has {names}\n"
        )


def _check(given: list[str], known: list[str], name: str) -> None:
    from sarguard.errors import AuditRecordError

    for value in given:
        if value not in known:
            raise AuditRecordError(
                f"no {name} {value!r}: use one of {', '.join(known)}"
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
