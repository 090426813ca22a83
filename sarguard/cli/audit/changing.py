"""`sarguard audit review | erase | retention | hold`: what reviewers may do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from sarguard.cli.audit.options import open_privacy, open_to_read, open_to_write
from sarguard.cli.audit.screen import say, write_facts
from sarguard.cli.screen import print_json, results
from sarguard.errors import AuditRecordError, ConfigurationError

if TYPE_CHECKING:
    from sarguard.audit import AuditLog
    from sarguard.audit.operations.retention import Decision, RetentionRule


def run_review(options: argparse.Namespace) -> int:
    """Record a reviewer's judgement of a request."""
    from sarguard.audit.operations.reviews import LABELS, review

    with open_to_write(options) as log:
        receipt = review(
            log,
            _request(log, options.request),
            options.label,
            reviewer=options.reviewer or options.actor,
            note=options.note,
        )
    if options.json:
        print_json({"seq": receipt.seq, "label": options.label})
    else:
        say(f"Record {receipt.seq}: {options.label}, {LABELS[options.label]}.")
    return 0


def _request(log: AuditLog, name: str) -> str:
    """Return a request's name, from its name or from one of its records' numbers."""
    if not name.isdecimal():
        return name
    found = getattr(log.reader.get(int(name)).record, "audit_id", None)
    if found is None:
        raise AuditRecordError(f"record {name} is not about a request")
    return str(found)


def run_erase(options: argparse.Namespace) -> int:
    """Destroy the keys of a session's content, or all keys of a tenant."""
    from sarguard.audit.operations.erasure import erase

    if not options.yes:
        raise ConfigurationError(
            "erasing cannot be undone: check what is named, then add --yes"
        )
    privacy = open_privacy(options)
    session = options.session
    if session is not None and not options.mark:
        session = _session_mark(options, session)
    with open_to_write(options) as log:
        done = erase(
            log,
            privacy.sealer,
            tenant=options.tenant,
            session=session,
            whole_tenant=options.whole_tenant,
            reason=options.reason,
            actor=options.actor,
        )
    if options.json:
        print_json(asdict(done))
    else:
        say(
            f"Record {done.seq}: {len(done.keys)} keys destroyed, {done.contents} "
            "pieces of content erased. The chain of records is unchanged. Destroy "
            f"copies of {privacy.keyring.path} as well."
        )
    return 0


def run_retention(options: argparse.Namespace) -> int:
    """Say what retention would delete; delete it if asked to."""
    from sarguard.audit.operations.retention import apply, plan

    rule = _rule(options)
    decisions = plan(open_to_read(options), rule)
    gone = 0
    if options.apply:
        with open_to_write(options) as log:
            sealer = open_privacy(options).sealer
            gone = apply(log, rule, actor=options.actor, sealer=sealer)
    if options.json:
        print_json(
            {"deleted": gone, "segments": [asdict(decision) for decision in decisions]}
        )
        return 0
    _write_plan(decisions)
    due = sum(decision.fate == "delete" for decision in decisions)
    said = f"Deleted {gone} records." if options.apply else f"{due} segments may go."
    say(said if options.apply or not due else f"{said} Add --apply to delete them.")
    return 0


def run_hold(options: argparse.Namespace) -> int:
    """Place, lift or list legal holds."""
    from sarguard.audit.operations.legal_holds import holds, lift_hold, place_hold

    if options.action == "list":
        found = holds(open_to_read(options))
        if options.json:
            print_json([asdict(hold) for hold in found])
        for hold in () if options.json else found:
            write_facts(hold.hold_id, list(asdict(hold).items())[1:])
        if not found and not options.json:
            say("No hold is in force.")
        return 0
    if not options.reason:
        raise ConfigurationError("say why, with --reason")
    with open_to_write(options) as log:
        if options.action == "place":
            name = place_hold(
                log,
                reason=options.reason,
                actor=options.actor,
                tenant=options.tenant,
                first_seq=options.first,
                last_seq=options.last,
            )
        else:
            name = options.hold or ""
            lift_hold(log, name, reason=options.reason, actor=options.actor)
    if options.json:
        print_json({"hold_id": name})
    else:
        say(f"{'Placed' if options.action == 'place' else 'Lifted'} {name}.")
    return 0


def _session_mark(options: argparse.Namespace, session: str) -> str:
    """Return a session's mark under its tenant's secret; never make a secret."""
    from sarguard.errors import AuditNotFoundError

    keyring = open_privacy(options).keyring
    made = [marks for _, marks in keyring.all_marks(options.tenant)]
    marks = [each.session(session) for each in made]
    for mark in marks:
        if any(secret.session == mark for secret in keyring.secrets()):
            return mark
    if marks:
        return marks[-1]
    raise AuditNotFoundError(
        f"{keyring.path} holds no key of this tenant: name the tenant and the keys"
    )


def _rule(options: argparse.Namespace) -> RetentionRule:
    from sarguard.audit.operations.retention import RetentionRule

    if options.policy is None:
        return RetentionRule(days=options.days, floor_days=options.floor_days)
    from sarguard.policy.loading import open_policy

    kept = open_policy(options.policy).retention
    return RetentionRule(
        days=kept.days, floor_days=kept.floor_days, legal_hold=kept.legal_hold
    )


def _write_plan(decisions: list[Decision]) -> None:
    from rich.table import Table

    from sarguard.audit.wording import plain

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("segment", "records", "until (UTC)", "fate", "why"):
        table.add_column(name)
    for decision in decisions:
        segment = decision.segment
        table.add_row(
            str(segment.segment),
            f"{segment.first_seq} to {segment.last_seq}",
            segment.last_time[:19].replace("T", " "),
            decision.fate,
            plain(decision.why).replace("[", "("),
        )
    if decisions:
        results().print(table)
