from __future__ import annotations

import sqlite3
from hashlib import sha256
from pathlib import Path

import pytest

from sarguard.audit.privacy.encryption import SealedStore, Sealer
from sarguard.audit.privacy.keyring import Keyring
from sarguard.errors import AuditFormatError, AuditIntegrityError, AuditNotFoundError

WORDS = b"the quick brown flimbergast"


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer(Keyring(tmp_path / "k"), SealedStore(tmp_path / "s"))


def test_what_was_sealed_opens(sealer: Sealer) -> None:
    content = sealer.seal("input_text", WORDS, tenant="a", session="one")
    assert sealer.unseal(content) == WORDS
    assert WORDS not in sealer.store.path.read_bytes()
    row = sealer.store.get(str(content.content_id))
    domain = b"sarguard content v1\x00"
    assert (
        content.commitment
        == sha256(domain + row.salt + row.nonce + row.data).hexdigest()
    )


def test_a_session_has_one_key(sealer: Sealer) -> None:
    one = sealer.seal("input_text", WORDS, tenant="a", session="one")
    same = sealer.seal("output_text", WORDS, tenant="a", session="one")
    other = sealer.seal("input_text", WORDS, tenant="a", session="two")
    alone = sealer.seal("input_text", WORDS, tenant="a", session=None)
    assert one.key_id == same.key_id
    assert len({one.key_id, other.key_id, alone.key_id}) == 3


def test_without_its_key_it_stays_shut(sealer: Sealer) -> None:
    content = sealer.seal("input_text", WORDS, tenant=None, session="one")
    sealer.keyring.destroy([str(content.key_id)])
    with pytest.raises(AuditNotFoundError, match="was destroyed"):
        sealer.unseal(content)
    assert sealer.store.delete_of([str(content.key_id)]) == 1
    with pytest.raises(AuditNotFoundError, match="erased"):
        sealer.unseal(content)


def test_changed_bytes_are_noticed(sealer: Sealer) -> None:
    content = sealer.seal("input_text", WORDS, tenant=None, session="one")
    with sqlite3.connect(sealer.store.path) as connection:
        connection.execute("UPDATE contents SET sealed = zeroblob(40)")
    connection.close()
    with pytest.raises(AuditIntegrityError, match="was changed"):
        sealer.unseal(content)


def test_content_cannot_pass_for_another_part(sealer: Sealer) -> None:
    content = sealer.seal("input_text", WORDS, tenant=None, session="one")
    with pytest.raises(AuditIntegrityError, match="cannot be opened"):
        sealer.unseal(content.model_copy(update={"part": "output_text"}))


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"something else entirely" * 50)
    with pytest.raises(AuditFormatError, match="sealed content"):
        SealedStore(tmp_path / "s").get("x")
