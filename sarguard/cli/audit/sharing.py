"""`sarguard audit export | lookup`: give records to who may have them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.audit.options import (
    asked,
    can_write,
    open_privacy,
    open_to_read,
    open_to_write,
    queries,
)
from sarguard.cli.audit.screen import say, write_lines, write_table
from sarguard.cli.screen import print_json
from sarguard.errors import AuditRecordError

if TYPE_CHECKING:
    from sarguard.audit.operations.subject_lookup import MakeMark


def run_export(options: argparse.Namespace) -> int:
    """Write records to a file, and record that they left."""
    from sarguard.audit.exports import export

    found = queries(options)
    if Path(options.output).exists():
        raise AuditRecordError(f"{options.output} exists: name another file")
    recorded = can_write(options)
    log = open_to_write(options) if recorded else open_to_read(options)
    with log:
        written = export(
            log,
            options.output,
            options.format,
            found,
            actor=options.actor,
            asked=asked(options) or None,
            record=recorded,
        )
    if options.json:
        print_json(asdict(written))
        return 0
    say(f"Wrote {written.path}: {written.records} records, {written.digest}")
    _say_recorded(written.seq)
    return 0


def run_lookup(options: argparse.Namespace) -> int:
    """Find a caller's records, and record that they were looked for; 1 if none."""
    from sarguard.audit.operations.subject_lookup import lookup, record_access

    make, query = _subject(options)
    keys = open_privacy(options).keyring
    found = lookup(
        open_to_read(options),
        keys,
        make,
        tenant=options.tenant,
        every_tenant=options.every_tenant,
    )
    recorded = can_write(options)
    if recorded:
        with open_to_write(options) as log:
            record_access(log, "lookup", found, actor=options.actor, query=query)
    if options.json:
        write_lines(found.entries)
    else:
        write_table(found.entries)
        requests = {getattr(e.record, "audit_id", None) for e in found.entries}
        say(f"{len(found.entries)} records, {len(requests)} requests hold this mark.")
        if requests:
            say("How one ended: sarguard audit show REQUEST, with its name from above.")
        _say_recorded(log.reader.size() if recorded else None)
    return 0 if found.entries else 1


def _subject(options: argparse.Namespace) -> tuple[MakeMark, str]:
    """Return what makes the mark, and a word for the record on what it is of."""
    from sarguard.audit.operations.subject_lookup import mark_of_audio

    if options.audio is not None:
        return mark_of_audio(options.audio, sample_rate=options.rate), "--audio"
    if options.text is not None:
        text = _stdin(options.text)
        return (lambda marks: marks.text(text)), "--text"
    if options.session is not None:
        name = _stdin(options.session)
        return (lambda marks: marks.session(name)), "--session"
    name = _stdin(options.caller)
    return (lambda marks: marks.actor(name)), "--caller"


def _stdin(given: str) -> str:
    """Return a value, read from the input where it is a dash: lists hide nothing."""
    return sys.stdin.read().rstrip("\n") if given == "-" else given


def _say_recorded(seq: int | None) -> None:
    if seq is None:
        sys.stderr.write(
            "sarguard: note: the ledger's signing key is not here, so this was not "
            "recorded in it\n"
        )
