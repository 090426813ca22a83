"""`sarguard audit tail | search | show | stats | export`: read the ledger."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.audit import views
from sarguard.cli.audit.options import (
    can_write,
    describe_filters,
    name_tenants,
    open_privacy,
    open_to_read,
    open_to_write,
    queries,
    warn_unrecorded,
)
from sarguard.cli.audit.screen import (
    say,
    write_facts,
    write_json_lines,
    write_pages,
    write_table,
)
from sarguard.cli.screen import print_json
from sarguard.errors import AuditRecordError, ConfigurationError

if TYPE_CHECKING:
    from sarguard.audit import AuditLog, Entry

_POLL_SECONDS = 0.5


def run_tail(options: argparse.Namespace) -> int:
    """Write the newest records; go on as new ones come if asked to."""
    log = open_to_read(options)
    size = log.reader.size()
    _write(options, log.entries(max(1, size - options.number + 1), size))
    while options.follow:
        time.sleep(_POLL_SECONDS)
        now = log.reader.size()
        if now > size:
            _write(options, log.entries(size + 1, now))
        size = now
    return 0


def run_search(options: argparse.Namespace) -> int:
    """Write the records that fit; 1 if none does."""
    log = open_to_read(options)
    wanted = queries(options)
    count = _write(options, islice(views.find(log, wanted), options.limit))
    if not options.json:
        total = sum(log.reader.count(query) for query in wanted)
        say(f"{count} of {total} records that fit" if count else "No record fits.")
    if not count:
        name_tenants(log, options.tenant)
    return 0 if count else 1


def run_show(options: argparse.Namespace) -> int:
    """Write one record, or all records of one request and what reviewers said."""
    log = open_to_read(options)
    entries = views.records_of(log, options.record)
    contents = [_describe(each, options) for each in _contents(options, entries)]
    if options.json:
        write_json_lines(entries)
        for content in contents:
            print_json({"content": content}, indent=None)
        # After them: what is not as it was signed is there to be looked at.
        _check_signed(log, entries)
        return 0
    write_pages(entries)
    for content in contents:
        write_facts(f"content: {content.pop('part')}", list(content.items()))
    _say_rest(log, entries)
    _check_signed(log, entries)
    _say_signed(log, entries)
    return 0


def run_stats(options: argparse.Namespace) -> int:
    """Write counts and rates of a period."""
    log = open_to_read(options)
    if options.kind:
        raise ConfigurationError(
            f"stats counts requests: `sarguard audit search --kind {options.kind}` "
            "lists other records"
        )
    found = views.statistics(log, queries(options))
    if options.json:
        print_json(found)
        return 0
    name_tenants(log, options.tenant)
    ended = found["ended"]
    facts = [("requests that ended", ended), ("without an outcome", found["open"])]
    write_facts("Requests", facts)
    for title in ("outcome", "policy", "tenant"):
        rows = sorted(found[title].items(), key=lambda pair: -pair[1])
        write_facts(f"By {title}", [(k, _share(v, ended)) for k, v in rows])
    disagreements = [("requests they disagree on", found["disagreements"] or None)]
    write_facts("Reviewers' newest labels", [*found["labels"].items(), *disagreements])
    write_facts("Of note", found["of_note"].items())
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Write records to a file, and record that they left."""
    from sarguard.audit import export

    wanted = queries(options)
    if Path(options.output).exists():
        raise AuditRecordError(f"{options.output} exists: name another file")
    recorded = can_write(options)
    with open_to_write(options) if recorded else open_to_read(options) as log:
        exported = export(
            log,
            options.output,
            options.format,
            wanted,
            actor=options.actor,
            query_text=describe_filters(options) or None,
            record=recorded,
        )
    if options.json:
        print_json(asdict(exported))
        return 0
    say(f"Wrote {exported.path}: {exported.records} records, {exported.digest}")
    if not exported.records:
        name_tenants(log, options.tenant)
    if not recorded:
        warn_unrecorded()
    return 0


def _write(options: argparse.Namespace, entries: Iterator[Entry]) -> int:
    return write_json_lines(entries) if options.json else write_table(entries)


def _contents(
    options: argparse.Namespace, entries: list[Entry]
) -> list[views.KeptContent]:
    """Return the content that records keep; opening sealed content is recorded."""
    sealed = views.contents(entries)
    if not options.content:
        return sealed
    if any(content.mode == "encrypted" for content in sealed):
        with open_to_write(options) as log:
            log.event(
                "accessed",
                action="content",
                actor=options.actor,
                query=f"show {options.record}",
                found=len(sealed),
            )
    return views.contents(entries, open_privacy(options).sealer)


def _describe(
    content: views.KeptContent, options: argparse.Namespace
) -> dict[str, Any]:
    """Return a piece of content as `show` writes it."""
    shown: dict[str, Any] = {"part": content.part, "mode": content.mode}
    if content.mode == "redacted":
        return {**shown, "text": content.text, "redactions": content.redactions}
    if not options.content:
        return {**shown, "text": "(sealed; --content opens it, and is recorded)"}
    if content.data is None:
        return {**shown, "text": f"({content.problem})"}
    if content.text is None:
        return {**shown, "text": f"({len(content.data)} bytes of FLAC)"}
    return {**shown, "text": content.text}


def _say_rest(log: AuditLog, entries: list[Entry]) -> None:
    """Say that a request has no end, or where the rest of it is."""
    for request in views.progress(log, entries):
        if not request.finished:
            say("This request has no outcome: it is running, or it was cut off.", "red")
        elif len(entries) < request.records:
            name = request.audit_id
            say(f"All of this request: sarguard audit show {name} -l {log.path}")


def _check_signed(log: AuditLog, entries: list[Entry]) -> None:
    """Raise AuditIntegrityError for a record that is not what was signed."""
    from sarguard.audit.proof.inclusion import check_signature, prove_record

    checkpoint = log.reader.checkpoint()
    if checkpoint is None:
        return
    with closing(log.reader.connect()) as connection:
        check_signature(connection, checkpoint)
        for entry in entries:
            if entry.seq <= checkpoint.size:
                prove_record(connection, entry.seq, checkpoint)


def _say_signed(log: AuditLog, entries: list[Entry]) -> None:
    checkpoint = log.reader.checkpoint()
    signed = 0 if checkpoint is None else checkpoint.size
    unsigned = [entry.seq for entry in entries if entry.seq > signed]
    if unsigned:
        say(f"Not signed yet: record {', '.join(map(str, unsigned))}.")
        return
    about = [e.seq for e in entries if e.record.kind != "reviewed"] or [entries[0].seq]
    say(
        f"Signed: the checkpoint of {signed} records covers this. "
        f"Prove it: sarguard audit prove {about[-1]} -l {log.path}"
    )


def _share(number: int, whole: int) -> str:
    return f"{number}  ({number / whole:.1%})" if whole else str(number)
