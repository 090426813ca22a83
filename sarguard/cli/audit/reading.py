"""`sarguard audit tail | search | show | stats`: read the ledger."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any

from sarguard.cli.audit.options import (
    open_privacy,
    open_to_read,
    open_to_write,
    queries,
)
from sarguard.cli.audit.screen import (
    say,
    write_facts,
    write_lines,
    write_request,
    write_table,
)
from sarguard.cli.screen import print_json
from sarguard.errors import ConfigurationError

if TYPE_CHECKING:
    from sarguard.audit import AuditLog, Entry, Query

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
    asked = queries(options)
    count = _write(options, islice(find(log, asked), options.limit))
    if not options.json:
        total = sum(log.reader.count(query) for query in asked)
        say(f"{count} of {total} records that fit" if count else "No record fits.")
    return 0 if count else 1


def find(log: AuditLog, asked: list[Query]) -> Iterator[Entry]:
    """Yield what fits any of some queries, newest first."""
    found = [log.search(query, limit=None) for query in asked]
    return merge(*found, key=_by_time, reverse=True)


def run_show(options: argparse.Namespace) -> int:
    """Write one record, or all records of one request and what reviewers said."""
    log = open_to_read(options)
    entries = _named(log, options.record)
    told = _contents(options, entries)
    if options.json:
        write_lines(entries)
        for content in told:
            print_json(content)
        return 0
    write_request(entries)
    for content in told:
        write_facts(f"content: {content.pop('part')}", list(content.items()))
    _say_rest(log, entries)
    _say_signed(log, entries)
    return 0


def _say_rest(log: AuditLog, entries: list[Entry]) -> None:
    """Say that a request has no end, or where the rest of it is."""
    names = {getattr(entry.record, "audit_id", None) for entry in entries}
    for name in filter(None, names):
        all_of_it = log.request(name)
        if all(entry.record.kind == "request_started" for entry in all_of_it):
            say("This request has no outcome: it is running, or it was cut off.", "red")
        elif len(entries) < len(all_of_it):
            say(f"All of this request: sarguard audit show {name} -l {log.path}")


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


def run_stats(options: argparse.Namespace) -> int:
    """Write counts and rates of a period."""
    log = open_to_read(options)
    query, *more = queries(options)
    if more:
        raise ConfigurationError("stats counts every outcome: name one at most")
    found = count(log, query)
    if options.json:
        print_json(found)
        return 0
    ended = found["ended"]
    facts = [("requests that ended", ended), ("without an outcome", found["open"])]
    write_facts("Requests", facts)
    for title in ("outcome", "policy", "tenant"):
        rows = sorted(found[title].items(), key=lambda pair: -pair[1])
        write_facts(f"By {title}", [(k, _share(v, ended)) for k, v in rows])
    write_facts("Reviewers' newest labels", found["labels"].items())
    write_facts("Of note", found["of_note"].items())
    return 0


def count(log: AuditLog, query: Query) -> dict[str, Any]:
    """Count a period's requests by how they ended, and what else is of note."""
    from dataclasses import replace

    from sarguard.audit.operations.reviews import labels

    ended = replace(query, kind="request_finished")
    started = log.reader.count(replace(query, kind="request_started"))
    by_kind = log.reader.tally("kind", query)
    noted = (
        *("integrity_failed", "audit_degraded", "policy_changed", "policy_overridden"),
        *("log_recovered", "mirror_failed", "erased", "exported", "accessed"),
    )
    said = list(labels(log).values())
    return {
        "started": started,
        "ended": log.reader.count(ended),
        "open": sum(1 for _ in log.unfinished()),
        "outcome": log.reader.tally("outcome", ended),
        "policy": log.reader.tally("policy", ended),
        "tenant": log.reader.tally("tenant", ended),
        "labels": {label: said.count(label) for label in sorted(set(said))},
        "of_note": {kind: by_kind[kind] for kind in noted if kind in by_kind},
    }


def _write(options: argparse.Namespace, entries: Iterator[Entry]) -> int:
    if not options.json:
        return write_table(entries)
    found = list(entries)
    write_lines(found)
    return len(found)


def _named(log: AuditLog, name: str) -> list[Entry]:
    from sarguard.audit.operations.reviews import reviews
    from sarguard.errors import AuditNotFoundError

    if name.isdecimal():
        return [log.reader.get(int(name))]
    found = log.request(name)
    if not found:
        raise AuditNotFoundError(
            f"no record or request {name!r}: give a number, or a name like req_01J..."
        )
    return [*found, *reviews(log, name)]


def _contents(
    options: argparse.Namespace, entries: list[Entry]
) -> list[dict[str, Any]]:
    """Return the content that records keep; opening sealed content is recorded."""
    kept: list[Any] = [c for e in entries for c in getattr(e.record, "content", ())]
    if options.content and any(content.mode == "encrypted" for content in kept):
        with open_to_write(options) as log:
            log.event(
                "accessed",
                action="content",
                actor=options.actor,
                query=f"show {options.record}",
                found=len(kept),
            )
    return [_content(options, content) for content in kept]


def _content(options: argparse.Namespace, content: Any) -> dict[str, Any]:  # noqa: ANN401
    from sarguard.errors import AuditNotFoundError

    told: dict[str, Any] = {"part": content.part, "mode": content.mode}
    if content.mode == "redacted":
        return {**told, "text": content.text, "redactions": content.redactions}
    if not options.content:
        return {**told, "text": "(sealed; --content opens it, and is recorded)"}
    try:
        data = open_privacy(options).sealer.unseal(content)
    except AuditNotFoundError as error:
        return {**told, "text": f"({error})"}
    if "audio" in content.part:
        return {**told, "text": f"({len(data)} bytes of FLAC)"}
    return {**told, "text": data.decode("utf-8", "replace")}


def _by_time(entry: Entry) -> tuple[str, int]:
    return str(entry.values["time"]), entry.seq


def _share(number: int, whole: int) -> str:
    return f"{number}  ({number / whole:.1%})" if whole else str(number)
