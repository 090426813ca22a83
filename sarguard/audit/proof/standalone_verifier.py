#!/usr/bin/env python3
"""Verify a sarguard ledger, or a proof from one, with Python alone.

This file needs nothing but Python 3.8: give it to whoever must not trust the
operator's software. It shares no code with the library that writes ledgers.

    python standalone_verifier.py ledger  audit.db [--key KEY] [--checkpoint FILE]
    python standalone_verifier.py proof   record.json record.tlog-proof --key KEY

KEY is the operator's verifier key (name+id+base64) or a file that holds it; get it
from the operator another way. FILE holds checkpoints kept outside the ledger. A
ledger may also be a text, one record a line. Exit code: 0 fits, 1 not, 2 unreadable.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Point = tuple[int, int, int, int]
    Key = tuple[str, str, bytes]
    Checkpoint = tuple[str, int, bytes, bytes, list[tuple[str, str, bytes]]]

# RFC 8032, 5.1: the prime of the field, the order of the base point, and the constant
# of the curve. Nothing here is secret, so nothing takes constant time.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def decode_point(data: bytes) -> Point:
    """Return a point of the curve in extended coordinates (RFC 8032, 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        raise ValueError("not a point of the curve")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    # P is 5 modulo 8, so this is a square root, or one times a root of -1.
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        raise ValueError("not a point of the curve")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P


def add_points(p: Point, q: Point) -> Point:
    """Return the sum of two points (RFC 8032, 5.1.4)."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(number: int, point: Point) -> Point:
    """Return a point added to itself a number of times."""
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = add_points(total, point)
        point, number = add_points(point, point), number >> 1
    return total


# The base point, whose y is 4/5 (RFC 8032, 5.1).
BASE = decode_point(bytes([0x58]) + bytes([0x66]) * 31)


def ed25519_verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether an Ed25519 signature is valid (RFC 8032, 5.1.7)."""
    if len(public) != 32 or len(signature) != 64:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    # RFC 8032 asks for it: a scalar plus L would be a second signature that verifies.
    if scalar >= L:
        return False
    try:
        key, commitment = decode_point(public), decode_point(signature[:32])
    except ValueError:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    left = multiply(scalar, BASE)
    right = multiply(int.from_bytes(digest, "little") % L, key)
    right = add_points(commitment, right)
    # x is X/Z and y is Y/Z: multiplied crosswise, points compare without a division.
    across = left[0] * right[2] - right[0] * left[2]
    along = left[1] * right[2] - right[1] * left[2]
    return across % P == along % P == 0


def sha256(data: bytes) -> bytes:
    """Hash; a record comes after a zero byte, a node after a one (RFC 6962)."""
    return hashlib.sha256(data).digest()


class Tree:
    """Merkle tree that grows leaf by leaf."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        place = self.size
        while place & 1:
            leaf, place = sha256(b"\x01" + self.peaks.pop() + leaf), place >> 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over the leaves so far."""
        root = self.peaks[-1] if self.peaks else sha256(b"")
        for peak in reversed(self.peaks[:-1]):
            root = sha256(b"\x01" + peak + root)
        return root


def included(
    leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes
) -> bool:
    """Return whether a proof leads from a leaf to a root (RFC 9162, 2.1.3.2)."""
    place, last = index, size - 1
    for step in proof:
        if not 0 <= place <= last or last == 0:
            return False
        if place & 1 or place == last:
            leaf = sha256(b"\x01" + step + leaf)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            leaf = sha256(b"\x01" + leaf + step)
        place, last = place >> 1, last >> 1
    return last == 0 <= index < size and leaf == root


def read_key(text: str) -> Key:
    """Return the name, id and bytes of a verifier key, or of a file that holds one."""
    if os.path.exists(text):
        with open(text, encoding="utf-8") as file:
            text = file.read()
    name, _, rest = text.strip().partition("+")
    given, _, data = rest.partition("+")
    raw = base64.b64decode(data, validate=True)
    found = sha256(name.encode() + b"\n" + raw)[:4].hex()
    if raw[:1] != b"\x01" or len(raw) != 33 or found != given:
        raise ValueError("not an Ed25519 verifier key: " + text.strip()[:80])
    return name, given, raw[1:]


CHECKPOINT = re.compile(
    r"^([^\n]+)\n(0|[1-9]\d*)\n([A-Za-z0-9+/=]{44})\n\n((?:\u2014 [^\n]+\n)+)", re.M
)


def read_checkpoints(text: str) -> Iterator[Checkpoint]:
    """Yield the origin, size, root, signed text and signatures of checkpoints."""
    for origin, size, root, tail in CHECKPOINT.findall(text):
        body = f"{origin}\n{size}\n{root}\n"
        signatures = []
        for line in tail.splitlines():
            name, _, blob = line[2:].partition(" ")
            raw = base64.b64decode(blob)
            signatures.append((name, raw[:4].hex(), raw[4:]))
        yield origin, int(size), base64.b64decode(root), body.encode(), signatures


def signed_by(checkpoint: Checkpoint, key: Key) -> bool:
    """Return whether a checkpoint carries a key's signature."""
    name, ident, public = key
    return any(
        (given, short) == (name, ident)
        and ed25519_verifies(public, checkpoint[3], signature)
        for given, short, signature in checkpoint[4]
    )


class Check:
    """Check of records in order, and what does not fit."""

    def __init__(self, checkpoints: list[Checkpoint]) -> None:
        self.tree, self.prev = Tree(), "0" * 64
        self.problems: list[str] = []
        self.keys: list[Key] = []
        self.log, self.signed, self.after_deleted = "", 0, False
        self.old_keys: list[Key] = []
        self.deferred: list[Checkpoint] = []
        self.by_size: dict[int, list[Checkpoint]] = {}
        self.deleted_roots: dict[tuple[int, int], str] = {}
        self.tombstones: dict[tuple[int, int], str] = {}
        for checkpoint in checkpoints:
            self.by_size.setdefault(checkpoint[1], []).append(checkpoint)

    def report(self, text: str) -> None:
        """Note a problem."""
        self.problems.append(text)

    def record(self, seq: int, data: bytes) -> None:
        """Check the next record."""
        try:
            record = json.loads(data)
            self.fits(seq, record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self.report(f"record {seq} cannot be read: {error}")
        self.push(sha256(b"\x00" + data))

    def fits(self, seq: int, record: dict[str, Any]) -> None:
        """Check a record's place, and what it says of keys and segments.

        Its other fields are not looked at, so that records of newer versions of the
        schema can be checked as well: what is signed is their bytes.
        """
        link = record["log"], record["seq"], record["prev"]
        self.log = self.log or link[0]
        if link != (self.log, self.tree.size + 1, self.prev):
            self.report(f"record {seq} does not follow the one before it")
        kind = record["kind"]
        if kind in ("log_opened", "segment_sealed"):
            self.name_key(seq, record["key"])
        if kind == "segment_sealed" and record["tree_root"] != self.tree.root().hex():
            self.report(f"record {seq} seals another root")
        if kind == "key_rotated":
            self.rotate(seq, record)
        if kind == "retention_tombstone":
            place = record["first_seq"], record["last_seq"]
            self.tombstones[place] = record["tree_root"]
            self.old_keys += [read_key(text) for text in record["keys"]]

    def name_key(self, seq: int, text: str) -> None:
        """Take a key that begins a ledger or a segment."""
        key = read_key(text)
        # After a deleted segment the seal is the first record left that names a key.
        if not self.keys or self.after_deleted:
            self.keys.append(key)
        elif key != self.keys[-1]:
            self.report(f"record {seq} names another key")

    def rotate(self, seq: int, record: dict[str, Any]) -> None:
        """Follow a key that hands over to another; both must have signed."""
        old, new = read_key(record["old_key"]), read_key(record["new_key"])
        both = record["old_key"] + "\n" + record["new_key"]
        text = f"sarguard key rotation\n{old[0]}\n{seq}\n{both}\n".encode()
        if not self.keys or old != self.keys[-1]:
            self.report(f"record {seq}: the old key did not sign until then")
        for key, name in ((old, "old_signature"), (new, "new_signature")):
            if not ed25519_verifies(key[2], text, base64.b64decode(record[name])):
                self.report(f"record {seq}: the {name} is not valid")
        self.keys.append(new)

    def push(self, leaf: bytes, deleted: bool = False) -> None:
        """Add a leaf, and check the checkpoints of that size."""
        self.tree.append(leaf)
        self.prev, self.after_deleted = leaf.hex(), deleted
        for checkpoint in self.by_size.pop(self.tree.size, ()):
            self.checkpoint(checkpoint, deleted)

    def checkpoint(self, checkpoint: Checkpoint, deleted: bool) -> None:
        """Check a checkpoint of the size reached."""
        if checkpoint[2] != self.tree.root():
            self.report(f"checkpoint {checkpoint[1]} was signed over other records")
        elif deleted:
            # The record that names its key is gone; a tombstone names it again.
            self.deferred.append(checkpoint)
        elif not self.keys or not signed_by(checkpoint, self.keys[-1]):
            self.report(f"checkpoint {checkpoint[1]} is not signed by the ledger's key")
        else:
            self.signed = checkpoint[1]

    def skip_deleted(self, first: int, last: int, hashes: bytes) -> None:
        """Take the hashes of records that retention deleted."""
        if first != self.tree.size + 1 or len(hashes) != 32 * (last - first + 1):
            self.report(f"records before {first} are missing")
            return
        for place in range(0, len(hashes), 32):
            self.push(hashes[place : place + 32], deleted=True)
        self.deleted_roots[first, last] = self.tree.root().hex()

    def finish(self, key: Key | None) -> None:
        """Check what is left, and the key that was given."""
        for size in sorted(self.by_size):
            self.report(
                f"records {self.tree.size + 1} to {size} are missing from the end"
            )
        for place, root in self.deleted_roots.items():
            if self.tombstones.get(place) != root:
                self.report(f"records {place} are gone without a fitting tombstone")
        known = self.keys + self.old_keys
        for checkpoint in self.deferred:
            if not any(signed_by(checkpoint, known_key) for known_key in known):
                self.report(f"checkpoint {checkpoint[1]} is not signed by a known key")
        # Any key of the chain: one from before a rotation vouches for the later ones.
        if key is not None and key not in self.keys:
            self.report("the ledger is not signed by the key that was given")


def check_ledger(path: str, checkpoints: list[Checkpoint], key: Key | None) -> Check:
    """Check a ledger's file, or a whole ledger written out, one record a line."""
    with open(path, "rb") as file:
        if file.read(16) == b"SQLite format 3\x00":
            check = check_database(path, checkpoints)
        else:
            check = Check(checkpoints)
            file.seek(0)
            for number, line in enumerate(file, 1):
                check.record(number, line.rstrip(b"\n"))
    check.finish(key)
    return check


def check_database(path: str, checkpoints: list[Checkpoint]) -> Check:
    """Check the records and checkpoints of a ledger's file."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA query_only = ON")
    stored = [note for (note,) in database.execute("SELECT note FROM checkpoints")]
    inside = [found for note in stored for found in read_checkpoints(note)]
    check = Check(inside + checkpoints)
    if len(inside) != len(stored):
        check.report("a stored checkpoint is damaged")
    deleted = database.execute(
        "SELECT first_seq, last_seq, leaves FROM burials ORDER BY first_seq"
    ).fetchall()
    for seq, data in database.execute("SELECT seq, record FROM records ORDER BY seq"):
        while deleted and deleted[0][0] < seq:
            check.skip_deleted(*deleted.pop(0))
        check.record(seq, data if isinstance(data, bytes) else str(data).encode())
    database.close()
    return check


def check_proof(record: bytes, text: str, key: Key) -> list[str]:
    """Return what does not fit of a record, its proof and a key."""
    head, _, note = text.partition("\n\n")
    lines = [line for line in head.split("\n") if not line.startswith("extra ")]
    if lines[0] != "c2sp.org/tlog-proof@v1" or not lines[1].startswith("index "):
        raise ValueError("not a proof")
    steps = [base64.b64decode(line, validate=True) for line in lines[2:]]
    (checkpoint,) = read_checkpoints(note)
    problems = []
    if not signed_by(checkpoint, key):
        problems.append("the checkpoint is not signed by the key that was given")
    index, leaf = int(lines[1][6:]), sha256(b"\x00" + record)
    if not included(leaf, index, checkpoint[1], steps, checkpoint[2]):
        problems.append("the record is not the one at that place of the ledger")
    return problems


def print_result(check: Check, key: Key | None, outside: list[Checkpoint]) -> int:
    """Print what was found, and what it does not prove."""
    for problem in check.problems[:100]:
        print("problem: " + problem)
    size = check.tree.size
    print(f"records: {size}, signed: {check.signed}")
    if not outside:
        print("not proven: that the end was not cut off: no outside checkpoint given")
    if key is None:
        print("not proven: whose key signed: none was given")
    if check.signed < size:
        print(f"not proven: who wrote records {check.signed + 1} on")
    print("not proven: that what the records say is true, and that none was left out")
    print("NOT VALID" if check.problems else "VALID")
    return 1 if check.problems else 0


def run(options: argparse.Namespace) -> int:
    """Check what was named; return the exit code."""
    key = read_key(options.key) if options.key else None
    if key is not None and options.what == "proof":
        with open(options.file, "rb") as raw:
            record = raw.read().rstrip(b"\n")
        with open(options.other, encoding="utf-8") as file:
            problems = check_proof(record, file.read(), key)
        print("\n".join(problems) or "VALID: the record is in the signed ledger")
        return 1 if problems else 0
    outside: list[Checkpoint] = []
    for path in options.checkpoint:
        with open(path, encoding="utf-8") as file:
            outside.extend(read_checkpoints(file.read()))
    return print_result(check_ledger(options.file, outside, key), key, outside)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Verify a sarguard ledger or proof.")
    parser.add_argument("what", choices=["ledger", "proof"])
    parser.add_argument("file")
    parser.add_argument("other", nargs="?", help="the proof")
    parser.add_argument("--key")
    parser.add_argument("--checkpoint", action="append", default=[])
    options = parser.parse_args(arguments)
    if options.what == "proof" and not (options.key and options.other):
        parser.error("proof needs the record, the proof and --key")
    try:
        return run(options)
    except (OSError, ValueError, IndexError, sqlite3.Error) as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
