"""`sarguard audit`: search, verify, prove, export and review the ledger."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sarguard.cli.audit.options import (
    add_filters,
    add_part,
    add_privacy,
    add_writing,
)
from sarguard.cli.options import positive_int
from sarguard.cli.quiet import warn_only

if TYPE_CHECKING:
    import argparse

    from sarguard.cli.options import Command, Commands

_FORMATS = ("jsonl", "csv", "parquet", "evidence", "otel", "ocsf", "cloudevents")
_LABELS = ("correct", "over_refusal", "missed", "needs_follow_up")


def add_parser(commands: Commands) -> None:
    """Add the command and what it can do."""
    parser = commands.add_parser(
        "audit",
        help="search, verify, prove, export and review the ledger",
        description="Work with the ledger. Every part takes --help and --json.",
    )
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_reading(parts)
    _add_review(parts)
    _add_proving(parts)
    _add_export(parts)
    _add_lookup(parts)
    _add_erase(parts)
    _add_retention(parts)
    _add_hold(parts)


def _add_reading(parts: Commands) -> None:
    tail = add_part(
        parts, "tail", _deferred("reading", "run_tail"), "show the newest records"
    )
    tail.add_argument("-n", "--number", type=positive_int, default=20, metavar="N")
    tail.add_argument(
        "-f", "--follow", action="store_true", help="go on as new records come"
    )
    does = (
        "find records by time, outcome, policy, tenant; exits with 1 if there is none"
    )
    search = add_part(parts, "search", _deferred("reading", "run_search"), does)
    add_filters(search)
    search.add_argument(
        "--limit", type=positive_int, default=50, metavar="N", help="default: 50"
    )
    does = "show one record, or all of one request"
    show = add_part(parts, "show", _deferred("reading", "run_show"), does)
    show.add_argument("record", help="a record's number, or a request's audit id")
    show.add_argument(
        "--content",
        action="store_true",
        help="open sealed content; that is recorded in the ledger",
    )
    add_privacy(show)
    add_writing(show)
    does = "count requests by outcome, policy and tenant"
    stats = add_part(parts, "stats", _deferred("reading", "run_stats"), does)
    add_filters(stats)


def _add_review(parts: Commands) -> None:
    review = add_part(
        parts,
        "review",
        _deferred("changing", "run_review"),
        "label a request as its reviewer",
        more="A label is a record of its own; a later one does not erase it.",
    )
    review.add_argument("request", help="its audit id, or the number of its record")
    review.add_argument("label", choices=_LABELS)
    review.add_argument("--note", help="why")
    review.add_argument("--reviewer", metavar="NAME", help="default: the actor")
    add_writing(review)


def _add_proving(parts: Commands) -> None:
    does = "check every record, hash and signature; exits with 1 if one does not fit"
    verify = add_part(parts, "verify", _deferred("proving", "run_verify"), does)
    verify.add_argument(
        "--key",
        metavar="KEY",
        help="the operator's public key, or a file that holds it, got elsewhere",
    )
    verify.add_argument(
        *("--expect-checkpoint", "--expect"),
        dest="expect",
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoints that were kept elsewhere; may be repeated",
    )
    verify.add_argument(
        "--record", action="store_true", help="add the result to the ledger"
    )
    add_writing(verify)
    does = "prove to anybody that one record is in the signed ledger"
    prove = add_part(parts, "prove", _deferred("proving", "run_prove"), does)
    prove.add_argument("record", type=positive_int, help="the record's number")
    prove.add_argument(
        *("-o", "--output"),
        metavar="NAME",
        help="write NAME.json and NAME.tlog-proof, as the stand-alone verifier reads",
    )
    does = "sign the ledger as it is; keep the result elsewhere"
    checkpoint = add_part(
        parts, "checkpoint", _deferred("proving", "run_checkpoint"), does
    )
    checkpoint.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    add_writing(checkpoint)
    does = "write the public key that auditors are given"
    add_part(parts, "key", _deferred("proving", "run_key"), does)


def _add_export(parts: Commands) -> None:
    does = "write records to a file; that is recorded in the ledger"
    export = add_part(parts, "export", _deferred("sharing", "run_export"), does)
    export.add_argument("-f", "--format", choices=_FORMATS, default="csv")
    export.add_argument("-o", "--output", metavar="FILE", required=True)
    add_filters(export)
    add_writing(export)


def _add_lookup(parts: Commands) -> None:
    does = "find a caller's records; that is recorded. Exits with 1 if there is none"
    lookup = add_part(parts, "lookup", _deferred("sharing", "run_lookup"), does)
    subject = lookup.add_mutually_exclusive_group(required=True)
    subject.add_argument("--audio", metavar="FILE", help="the recording that came in")
    subject.add_argument("--text", help="the text that came in or went out; - reads it")
    subject.add_argument("--session", metavar="NAME", help="the session's own name")
    subject.add_argument("--caller", metavar="NAME", help="who asked, by name")
    lookup.add_argument("--tenant", help="whose records")
    lookup.add_argument(
        "--every-tenant", action="store_true", help="look among all tenants"
    )
    lookup.add_argument(
        "--rate", type=positive_int, default=16_000, help="the model's (default: 16000)"
    )
    add_privacy(lookup)
    add_writing(lookup)


def _add_erase(parts: Commands) -> None:
    erase = add_part(
        parts,
        "erase",
        _deferred("changing", "run_erase"),
        "destroy the keys of a caller's content",
        more="Records stay, and stay valid; what they speak of becomes unreadable.",
    )
    subject = erase.add_mutually_exclusive_group(required=True)
    subject.add_argument("--session", metavar="NAME", help="the session's own name")
    subject.add_argument(
        "--whole-tenant",
        action="store_true",
        help="everything of the tenant, and the key of its marks",
    )
    erase.add_argument("--mark", action="store_true", help="--session gives a mark")
    erase.add_argument("--tenant", help="whose; none where no tenants are used")
    erase.add_argument("--reason", help="why, for the record")
    erase.add_argument("--yes", action="store_true", help="needed: it cannot be undone")
    add_privacy(erase)
    add_writing(erase)


def _add_retention(parts: Commands) -> None:
    does = "say which old segments may go, and delete them with --apply"
    retention = add_part(
        parts, "retention", _deferred("changing", "run_retention"), does
    )
    retention.add_argument("--days", type=positive_int, default=365)
    retention.add_argument(
        "--floor-days", type=positive_int, default=183, help="the least of --days"
    )
    retention.add_argument("--policy", metavar="FILE", help="take it from a policy")
    retention.add_argument("--apply", action="store_true", help="delete them")
    add_privacy(retention)
    add_writing(retention)


def _add_hold(parts: Commands) -> None:
    does = "place, lift or list legal holds: what they cover is not deleted"
    hold = add_part(parts, "hold", _deferred("changing", "run_hold"), does)
    hold.add_argument("action", choices=("list", "place", "lift"))
    hold.add_argument("hold", nargs="?", help="the hold to lift")
    hold.add_argument("--reason")
    hold.add_argument("--tenant", help="cover this tenant's records only")
    hold.add_argument("--first", type=positive_int, metavar="N", help="from record N")
    hold.add_argument("--last", type=positive_int, metavar="N", help="up to record N")
    add_writing(hold)


def _deferred(module: str, name: str) -> Command:
    """Return a command that loads what it needs, tables among it, when it is run."""

    def run(options: argparse.Namespace) -> int:
        warn_only()
        found: Command = getattr(import_module(f"sarguard.cli.audit_{module}"), name)
        return found(options)

    return run
