"""`sarguard audit review | lookup | erase | retention | hold`: work with the ledger."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from sarguard.cli.audit.options import (
    can_write,
    name_tenants,
    open_privacy,
    open_to_read,
    open_to_write,
    warn_unrecorded,
)
from sarguard.cli.audit.screen import (
    say,
    write_facts,
    write_json_lines,
    write_table,
)
from sarguard.cli.screen import print_json, print_table, results
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.audit.operations.retention import RetentionRule, SegmentDecision
    from sarguard.audit.operations.subject_lookup import MakePseudonym


def run_review(options: argparse.Namespace) -> int:
    """Record a reviewer's judgement of a request."""
    from sarguard.audit.operations.reviews import review
    from sarguard.audit.views import request_of
    from sarguard.audit.wording import LABELS

    with open_to_write(options) as log:
        receipt = review(
            log,
            request_of(log, options.request),
            options.label,
            reviewer=options.reviewer or options.actor,
            note=options.note,
            actor=options.actor,
        )
    if options.json:
        print_json({"seq": receipt.seq, "label": options.label})
    else:
        say(f"Record {receipt.seq}: {options.label}, {LABELS[options.label]}.")
    return 0


def run_lookup(options: argparse.Namespace) -> int:
    """Find a caller's records, and record that they were looked for; 1 if none."""
    from sarguard.audit.operations.subject_lookup import lookup, record_access

    make, query = _subject(options)
    found = lookup(
        open_to_read(options),
        open_privacy(options).keyring,
        make,
        tenant=options.tenant,
        every_tenant=options.every_tenant,
    )
    recorded = can_write(options)
    if recorded:
        with open_to_write(options) as log:
            record_access(log, "lookup", found, actor=options.actor, query=query)
    if options.json:
        write_json_lines(found.entries)
    else:
        write_table(found.entries)
        requests = {getattr(e.record, "audit_id", None) for e in found.entries}
        say(f"{len(found.entries)} records, {len(requests)} requests hold this mark.")
        if requests:
            say("How one ended: sarguard audit show REQUEST, with its name from above.")
        if not recorded:
            warn_unrecorded()
    if not found.entries:
        name_tenants(open_to_read(options), options.tenant)
    return 0 if found.entries else 1


def _subject(options: argparse.Namespace) -> tuple[MakePseudonym, str]:
    """Return what makes the pseudonym, and a word for the record on what it is of."""
    from sarguard.audit.operations.subject_lookup import audio_pseudonym

    if options.audio is not None:
        return audio_pseudonym(options.audio, sample_rate=options.rate), "--audio"
    if options.text is not None:
        text = _read_dash(options.text)
        return (lambda pseudonyms: pseudonyms.text(text)), "--text"
    if options.session is not None:
        name = _read_dash(options.session)
        return (lambda pseudonyms: pseudonyms.session(name)), "--session"
    name = _read_dash(options.caller)
    return (lambda pseudonyms: pseudonyms.actor(name)), "--caller"


def _read_dash(given: str) -> str:
    """Return a value, read from stdin if it is a dash: lists of processes show it."""
    return sys.stdin.read().rstrip("\n") if given == "-" else given


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
        session = _session_pseudonym(options, session)
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
        if done.readable:
            say(
                f"{done.readable} records keep redacted words in the clear, which the "
                "chain does not let go: a policy with audit.content: encrypted or none "
                "keeps none.",
                "yellow",
            )
    return 0


def run_retention(options: argparse.Namespace) -> int:
    """Write what retention would delete; delete it with `--apply`."""
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
    from sarguard.audit.operations.legal_holds import (
        active_holds,
        lift_hold,
        place_hold,
    )

    if options.action == "list":
        found = active_holds(open_to_read(options))
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
            name_tenants(log, options.tenant)
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


def _session_pseudonym(options: argparse.Namespace, session: str) -> str:
    """Return a session's pseudonym under its tenant's secret; never make a secret."""
    from sarguard.errors import AuditNotFoundError

    keyring = open_privacy(options).keyring
    made = [each.session(session) for _, each in keyring.all_pseudonyms(options.tenant)]
    # After a rotation, the one that the session's content was sealed under.
    in_use = {secret.session for secret in keyring.secrets()}
    found = [each for each in made if each in in_use] or made[-1:]
    if found:
        return found[0]
    raise AuditNotFoundError(
        f"{keyring.path} holds no key of this tenant: name the tenant and the keys"
    )


def _rule(options: argparse.Namespace) -> RetentionRule:
    from sarguard.audit.operations.retention import RetentionRule

    if options.policy is None:
        return RetentionRule(days=options.days, floor_days=options.floor_days)
    from sarguard.policy.model import open_policy

    kept = open_policy(options.policy).retention
    return RetentionRule(
        days=kept.days, floor_days=kept.floor_days, legal_hold=kept.legal_hold
    )


def _write_plan(decisions: list[SegmentDecision]) -> None:
    from rich.table import Table

    from sarguard.audit.wording import printable

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
            printable(decision.why).replace("[", "("),
        )
    if decisions:
        print_table(results(), table)
