"""Hold keys, signed notes and checkpoints to published examples."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from sarguard.audit.proof.signed_notes import Checkpoint, VerifierKey, parse_many
from sarguard.audit.proof.signing_keys import Signer, SigningKey, sign_checkpoint
from sarguard.audit.proof.standalone_verifier import ed25519_verifies
from sarguard.errors import AuditFormatError, AuditKeyError, AuditNotFoundError

# The example of golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SAID = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
)
SIGNED = b64decode(
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6K"
    "E6RyyBwJnAM="
)

# RFC 8032, 7.1: public key, message, signature.
RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def test_the_published_note_verifies() -> None:
    key = VerifierKey.parse(PETER)
    assert key.id == SIGNED[:4].hex()
    assert key.verifies(SAID, SIGNED[4:])
    assert not key.verifies(SAID + b"!", SIGNED[4:])
    assert str(key) == PETER
    assert ed25519_verifies(key.public, SAID, SIGNED[4:])


@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032)
def test_the_pure_verifier_against_the_rfc(
    public: str, message: str, signature: str
) -> None:
    parts = [bytes.fromhex(text) for text in (public, message, signature)]
    assert ed25519_verifies(*parts)
    assert not ed25519_verifies(parts[0], parts[1] + b"x", parts[2])
    bent = bytes([parts[2][0] ^ 1]) + parts[2][1:]
    assert not ed25519_verifies(parts[0], parts[1], bent)
    # A signature with a scalar beyond the group's order is another spelling of it.
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(parts[2][32:], "little") + order
    again = parts[2][:32] + scalar.to_bytes(32, "little")
    assert not ed25519_verifies(parts[0], parts[1], again)


def test_both_verifiers_agree() -> None:
    key = SigningKey.generate("example.com/log")
    for text in (b"", b"a", b"sarguard" * 100):
        signature = key.sign(text)
        assert key.verifier.verifies(text, signature)
        assert ed25519_verifies(key.verifier.public, text, signature)
        assert not ed25519_verifies(key.verifier.public, text + b".", signature)
    assert isinstance(key, Signer)


def test_a_checkpoint_is_written_as_others_read_it() -> None:
    key = SigningKey("example.com/log", bytes(32))
    note = sign_checkpoint(Checkpoint("example.com/log", 7, bytes(32)), key)
    body, blank, signature = str(note).partition("\n\n")
    assert body.split("\n") == ["example.com/log", "7", "A" * 43 + "="]
    assert blank
    assert signature.startswith("— example.com/log ")
    assert signature.endswith("\n")
    assert Checkpoint.parse(str(note)) == note
    assert note.signed_by(key.verifier)
    other = SigningKey("example.com/log", bytes([1] * 32)).verifier
    assert not note.signed_by(other)


def test_a_changed_checkpoint_is_not_signed() -> None:
    key = SigningKey("example.com/log", bytes(32))
    note = str(sign_checkpoint(Checkpoint("example.com/log", 7, bytes(32)), key))
    assert not Checkpoint.parse(note.replace("\n7\n", "\n8\n")).signed_by(key.verifier)


def test_torn_copies_are_passed_over() -> None:
    key = SigningKey("example.com/log", bytes(32))
    notes = [
        str(sign_checkpoint(Checkpoint("example.com/log", size, bytes(32)), key))
        for size in (1, 2, 3)
    ]
    for cut in range(1, len(notes[1].encode()) - 1):
        torn = notes[1].encode()[:cut].decode("utf-8", "ignore")
        found = parse_many(f"\n{notes[0]}\n{torn}\n{notes[2]}")
        whole = [c.size for c in found if c.signed_by(key.verifier)]
        assert whole == [1, 3]
    assert parse_many("") == []


@pytest.mark.parametrize(
    "text",
    ["", "a\nb\nc\n\n", "log\n1\nxx\n\n— log AAAA\n", "log\n01\n" + "A" * 43 + "=\n\n"],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(AuditFormatError):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "not"),
        (PETER.replace("c74f20a3", "c74f20a4"), "copied wrongly"),
        (PETER.replace("+ARpc", "+AhpC"), "Ed25519"),
        ("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "empty"),
    ],
)
def test_what_is_no_key(text: str, says: str) -> None:
    with pytest.raises(AuditKeyError, match=says):
        VerifierKey.parse(text)


def test_a_key_file_is_its_owners(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "log.key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).verifier == key.verifier
    assert key.verifier.name in repr(key)
    with pytest.raises(FileExistsError):
        key.save(path)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AuditNotFoundError, match="no signing key"):
        SigningKey.load(tmp_path / "missing.key")
    path = tmp_path / "log.key"
    for content in (b"", b"\xff\xfe", b"PRIVATE+KEY+a+00000000+AAAA"):
        path.write_bytes(content)
        with pytest.raises(AuditKeyError):
            SigningKey.load(path)
    good = tmp_path / "good.key"
    SigningKey("a", bytes(32)).save(good)
    path.write_text(good.read_text().replace("+a+", "+b+"))
    with pytest.raises(AuditKeyError, match="damaged"):
        SigningKey.load(path)
