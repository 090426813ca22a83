"""`sarguard audit verify | prove | checkpoint | key`: prove what the ledger holds."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.cli.audit.options import open_to_read, open_to_write
from sarguard.cli.audit.screen import say, write_facts
from sarguard.cli.screen import print_json, steps
from sarguard.errors import AuditError, AuditFormatError, ConfigurationError

if TYPE_CHECKING:
    from sarguard.audit import Checkpoint, VerificationReport


def run_verify(options: argparse.Namespace) -> int:
    """Verify the whole ledger; 1 if something does not fit."""
    from sarguard.audit import verify

    expected = [found for path in options.expect for found in _checkpoints(path)]
    with steps("Verifying") as advance:
        report = verify(
            options.ledger,
            key=_key(options.key),
            expect=expected,
            progress=lambda done, total: advance(done, total, ""),
        )
    if options.json:
        print_json({"ok": report.ok, **asdict(report)})
    else:
        _write_report(report)
    if options.record:
        _record(options, report)
    return report.exit_code


def run_prove(options: argparse.Namespace) -> int:
    """Write a proof that a record is in the signed ledger."""
    from sarguard.audit import prove

    log = open_to_read(options)
    proof = prove(options.ledger, options.record)
    entry = log.reader.get(options.record)
    if options.output is None:
        if options.json:
            print_json(
                {"seq": entry.seq, "record": entry.data.decode(), "proof": str(proof)}
            )
        else:
            sys.stdout.write(str(proof))
        return 0
    base = Path(options.output)
    # The names end as the stand-alone verifier's help shows them.
    places = (
        base.with_name(f"{base.name}.json"),
        base.with_name(f"{base.name}.tlog-proof"),
    )
    _write_new(places[0], entry.data)
    _write_new(places[1], str(proof).encode())
    if options.json:
        print_json({"record": str(places[0]), "proof": str(places[1])})
    else:
        say(f"Wrote {places[0]} and {places[1]}.")
    return 0


def run_checkpoint(options: argparse.Namespace) -> int:
    """Sign the ledger as it is, and write the checkpoint to keep elsewhere."""
    with open_to_write(options) as log:
        key = log.verifier
    # Closing signs, and so covers the record that says that this program closed.
    note = log.reader.checkpoint()
    if note is None:
        raise AuditError("the ledger has no checkpoint: verify it")
    if options.output:
        _write_new(Path(options.output), str(note).encode())
    if options.json:
        print_json({"size": note.size, "note": str(note), "key": str(key)})
    elif options.output:
        say(f"Wrote {options.output}: {note.size} records, signed by {key}")
    else:
        sys.stdout.write(str(note))
    return 0


def run_key(options: argparse.Namespace) -> int:
    """Write the public keys that checkpoints were signed with, the newest last."""
    from sarguard.audit import Query

    log = open_to_read(options)
    names = {"log_opened": "key", "key_rotated": "new_key", "segment_sealed": "key"}
    found: dict[int, str] = {}
    for kind, name in names.items():
        for entry in log.search(Query(kind=kind), limit=None):
            found[entry.seq] = getattr(entry.record, name)
    keys = list(dict.fromkeys(found[seq] for seq in sorted(found)))
    if options.json:
        print_json({"keys": keys})
    else:
        sys.stdout.write("".join(f"{key}\n" for key in keys))
    return 0


def _write_report(report: VerificationReport) -> None:
    if report.ok:
        say(f"VALID: {report.path}", "bold green")
    else:
        say(f"NOT VALID: {report.path}", "bold red")
    for problem in report.problems:
        say(f"  problem: {problem.text}", "red")
    if report.problem_count > len(report.problems):
        say(f"  and {report.problem_count - len(report.problems)} more", "red")
    signed = f"records 1 to {report.signed_size}" if report.signed_size else "none"
    anchored = (
        f"records 1 to {report.anchored_size}" if report.anchored_size else "none"
    )
    write_facts(
        "What was checked",
        [
            ("records", f"{report.size} ({report.records} read one by one)"),
            ("deleted by retention", report.buried),
            ("signed", signed),
            ("fits a copy kept elsewhere", anchored),
            ("checkpoints", report.checkpoints),
            ("requests without an outcome", report.unfinished),
            ("requests let go unrecorded", report.unrecorded),
            ("signed by", "\n".join(report.keys)),
            ("root", report.root),
        ],
    )
    say("What this does not prove", "bold")
    for text in report.not_proven:
        say(f"  - {text}")


def _record(options: argparse.Namespace, report: VerificationReport) -> None:
    if not report.root:
        raise AuditError("the ledger is too damaged for the result to be added to it")
    with open_to_write(options) as log:
        log.event(
            "verified",
            ok=report.ok,
            size=report.size,
            root=report.root,
            problems=report.problem_count,
            actor=options.actor,
        )


def _key(given: str | None) -> str | None:
    """Return a verifier key that was given as such, or in a file."""
    if given is None or not Path(given).exists():
        return given
    try:
        return Path(given).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise AuditFormatError(f"{given} does not hold a verifier key") from error


def _checkpoints(path: str) -> list[Checkpoint]:
    from sarguard.audit.proof.signed_notes import parse_many

    text = Path(path).read_text(encoding="utf-8", errors="replace")
    found = parse_many(text)
    if not found:
        raise AuditFormatError(f"{path} holds no signed checkpoint")
    return found


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists: name another file") from error
