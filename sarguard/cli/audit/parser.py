"""`sarguard audit`: search, verify, prove, export and review the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sarguard.audit.exports import FORMATS
from sarguard.audit.wording import LABELS
from sarguard.cli.audit.options import (
    add_command,
    add_filters,
    add_privacy,
    add_writing,
)
from sarguard.cli.options import positive_int

if TYPE_CHECKING:
    from sarguard.cli.options import Commands


def add_parser(parent: Commands) -> None:
    """Add `sarguard audit` and its commands."""
    parser = parent.add_parser(
        "audit",
        help="search, verify, prove, export and review the ledger",
        description="Work with the ledger. Every part takes --help and --json.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_query(commands)
    _add_review(commands)
    _add_proof(commands)
    _add_export(commands)
    _add_lookup(commands)
    _add_erase(commands)
    _add_retention(commands)
    _add_hold(commands)


def _add_query(commands: Commands) -> None:
    tail = add_command(commands, "tail", "query", "show the newest records")
    tail.add_argument("-n", "--number", type=positive_int, default=20, metavar="N")
    tail.add_argument(
        "-f", "--follow", action="store_true", help="go on as new records come"
    )
    does = (
        "find records by time, outcome, policy, tenant; exits with 1 if there is none"
    )
    search = add_command(commands, "search", "query", does)
    add_filters(search)
    search.add_argument(
        "--limit", type=positive_int, default=50, metavar="N", help="default: 50"
    )
    does = "show one record, or all of one request"
    show = add_command(commands, "show", "query", does)
    show.add_argument("record", help="a record's number, or a request's audit id")
    show.add_argument(
        "--content",
        action="store_true",
        help="open sealed content; that is recorded in the ledger",
    )
    add_privacy(show)
    add_writing(show)
    does = "count requests by outcome, policy and tenant"
    stats = add_command(commands, "stats", "query", does)
    add_filters(stats)


def _add_review(commands: Commands) -> None:
    review = add_command(
        commands,
        "review",
        "operations",
        "label a request as its reviewer",
        more="A label is a record of its own; a later one does not erase it.",
    )
    review.add_argument("request", help="its audit id, or the number of its record")
    review.add_argument("label", choices=tuple(LABELS))
    review.add_argument("--note", help="why")
    review.add_argument("--reviewer", metavar="NAME", help="default: the actor")
    add_writing(review)


def _add_proof(commands: Commands) -> None:
    does = "check every record, hash and signature; exits with 1 if one does not fit"
    verify = add_command(commands, "verify", "proof", does)
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
    prove = add_command(commands, "prove", "proof", does)
    prove.add_argument("record", type=positive_int, help="the record's number")
    prove.add_argument(
        *("-o", "--output"),
        metavar="NAME",
        help="write NAME.json and NAME.tlog-proof, as the stand-alone verifier reads",
    )
    does = "sign the ledger as it is; keep the result elsewhere"
    checkpoint = add_command(commands, "checkpoint", "proof", does)
    checkpoint.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    add_writing(checkpoint)
    does = "write the public key that auditors are given"
    add_command(commands, "key", "proof", does)


def _add_export(commands: Commands) -> None:
    does = "write records to a file; that is recorded in the ledger"
    export = add_command(commands, "export", "query", does)
    export.add_argument("-f", "--format", choices=FORMATS, default="csv")
    export.add_argument("-o", "--output", metavar="FILE", required=True)
    add_filters(export)
    add_writing(export)


def _add_lookup(commands: Commands) -> None:
    does = "find a caller's records; that is recorded. Exits with 1 if there is none"
    lookup = add_command(commands, "lookup", "operations", does)
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


def _add_erase(commands: Commands) -> None:
    erase = add_command(
        commands,
        "erase",
        "operations",
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


def _add_retention(commands: Commands) -> None:
    does = "say which old segments may go, and delete them with --apply"
    retention = add_command(commands, "retention", "operations", does)
    retention.add_argument("--days", type=positive_int, default=365)
    retention.add_argument(
        "--floor-days", type=positive_int, default=183, help="the least of --days"
    )
    retention.add_argument("--policy", metavar="FILE", help="take it from a policy")
    retention.add_argument("--apply", action="store_true", help="delete them")
    add_privacy(retention)
    add_writing(retention)


def _add_hold(commands: Commands) -> None:
    does = "place, lift or list legal holds: what they cover is not deleted"
    hold = add_command(commands, "hold", "operations", does)
    hold.add_argument("action", choices=("list", "place", "lift"))
    hold.add_argument("hold", nargs="?", help="the hold to lift")
    hold.add_argument("--reason")
    hold.add_argument("--tenant", help="cover this tenant's records only")
    hold.add_argument("--first", type=positive_int, metavar="N", help="from record N")
    hold.add_argument("--last", type=positive_int, metavar="N", help="up to record N")
    add_writing(hold)
