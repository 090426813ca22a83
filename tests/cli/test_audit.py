"""Work with a ledger as a compliance reviewer does."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import soundfile

from sarguard.audio import load_audio
from sarguard.audit import AuditLog, CheckVerdict
from sarguard.audit.storage.database import TRIGGERS
from sarguard.audit.wording import KIND_WORDS, OUTCOME_WORDS, printable
from tests.audit.filled import POLICY, RATE, SECRET_WORDS, ask, clip, ledger

Run = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parents[2] / "docs" / "audit.md"
ENDS = ("answered", "refused", "blocked", "error_closed", "answered")


@pytest.fixture
def request_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a ledger in the current folder; return the name of its last request."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", clip(9), RATE, subtype="PCM_16")
    log, privacy = ledger(Path(), content="encrypted")
    with log:
        log.event("policy_loaded", policy=POLICY, body='{"id":"clinic"}')
        for number, outcome in enumerate(ENDS):
            session = f"call-{number}"
            name = ask(
                log, privacy, seed=number, outcome=outcome, tenant="acme",
                session=session,
            )  # fmt: skip
        heard = load_audio("question.wav", sample_rate=RATE)
        pseudonyms = privacy.pseudonyms("acme")
        log.started(
            entry="generate",
            tenant="acme",
            mark_key=pseudonyms.key_id,
            input=privacy.describe_input(clips=[(heard, RATE)], tenant="acme"),
        )
    return name


def test_every_command_of_the_page_works(request_id: str, run: Run) -> None:
    """Run the page's commands in order; their effects build on each other."""
    text = PAGE.read_text(encoding="utf-8")
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) > 15
    for command in commands:
        status, _, err = run(*shlex.split(command)[1:])
        assert status == 0, f"{command}: {err}"
    assert run("audit", "verify")[0] == 0


def test_every_kind_and_outcome_has_words() -> None:
    from sarguard.audit.records.schema import KINDS
    from sarguard.types import Outcome

    assert set(KIND_WORDS) == set(KINDS)
    assert set(OUTCOME_WORDS) == {str(outcome) for outcome in Outcome}


@pytest.mark.usefixtures("request_id")
def test_search_finds_exactly(run: Run) -> None:
    status, out, _ = run("audit", "search", "--interventions", "--json")
    found = [json.loads(line)["record"]["outcome"] for line in out.splitlines()]
    assert (status, found) == (0, ["error_closed", "blocked", "refused"])
    status, out, err = run("audit", "search", "--tenant", "nobody")
    assert (status, out) == (1, "No record fits.\n")
    assert "no tenant 'nobody'; it has acme" in err
    assert run("audit", "search", "--since", "yesterday")[0] == 2
    status, _, err = run("audit", "search", "--outcome", "fine")
    assert status == 2
    assert "answered, refused" in err


@pytest.mark.usefixtures("request_id")
def test_stats_take_the_filters_that_they_name(run: Run) -> None:
    status, out, _ = run("audit", "stats", "--interventions", "--json")
    found = json.loads(out)
    ended = {"blocked": 1, "error_closed": 1, "refused": 1}
    assert (status, found["outcome"], found["ended"]) == (0, ended, 3)
    assert (
        run("audit", "stats", "--outcome", "answered", "--outcome", "refused")[0] == 0
    )
    status, _, err = run("audit", "stats", "--kind", "reviewed")
    assert status == 2
    assert "sarguard audit search --kind reviewed" in err


def test_two_reviewers_stand_side_by_side(request_id: str, run: Run) -> None:
    for name, label in (("ann", "missed"), ("bob", "correct")):
        run("audit", "review", request_id, label, "--reviewer", name)
    _, out, _ = run("audit", "stats")
    assert re.search(r"missed +1\ncorrect|correct +1\nmissed +1", out)
    assert re.search(r"requests they disagree on +1", out)
    _, out, _ = run("audit", "search", "--kind", "reviewed", "--json")
    first = json.loads(out.splitlines()[0])["record"]
    assert (first["reviewer"], bool(first["actor"])) == ("bob", True)


@pytest.mark.parametrize("more", [(), ("--content",)], ids=["sealed", "opened"])
def test_json_is_a_value_a_line(
    request_id: str, run: Run, more: tuple[str, ...]
) -> None:
    _, out, _ = run("audit", "show", request_id, "--json", *more)
    values = [json.loads(line) for line in out.splitlines()]
    assert [value["record"]["kind"] for value in values[:2]] == [
        "request_started",
        "request_finished",
    ]
    assert [value["content"]["part"] for value in values[2:]] == [
        "input_text",
        "input_audio",
        "output_text",
    ]


@pytest.mark.parametrize("part", ["verify", "tail", "search", "stats", "show 3"])
def test_a_closed_pipe_is_not_a_wrong_ledger(request_id: str, part: str) -> None:
    assert request_id
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sarguard", "audit", *part.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


@pytest.mark.usefixtures("request_id")
def test_an_error_names_the_option_of_the_command_line(run: Run) -> None:
    Path("audit.db.key").unlink()
    status, _, err = run("audit", "review", "3", "correct")
    assert status == 2
    assert "--signing-key" in err


@pytest.mark.usefixtures("request_id")
def test_a_hold_for_a_mistyped_tenant_names_the_known_ones(run: Run) -> None:
    hold = ["audit", "hold", "place", "--reason", "case 7", "--tenant"]
    status, _, err = run(*hold, "acmee")
    assert status == 0, "a hold may come before the first record"
    assert "no tenant 'acmee'; it has acme" in err
    assert run(*hold, "acme")[2] == ""


@pytest.mark.usefixtures("request_id")
def test_tail_is_the_end_in_order(run: Run) -> None:
    _, out, _ = run("audit", "tail", "-n", "3", "--json")
    numbers = [json.loads(line)["seq"] for line in out.splitlines()]
    assert numbers == [12, 13, 14]
    _, out, _ = run("audit", "tail")
    assert "request ended: blocked" in out
    assert "guard proven" in out


def test_show_lists_the_verdicts_of_checks(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "checked.db"
    with AuditLog.open(path) as log:
        name = str(log.started(entry="generate").audit_id)
        verdict = CheckVerdict(
            name="topic", version="1", stage="input", verdict="timed_out"
        )
        log.finished(name, outcome="blocked", reason="check", checks=[verdict])
    _, out, _ = run("audit", "show", name, "-l", str(path))
    assert re.search(r"checks 1 name +topic", out)
    assert re.search(r"checks 1 verdict +timed_out", out)
    assert "check topic: timed_out" in out


def test_show_opens_sealed_content_only_when_asked(request_id: str, run: Run) -> None:
    _, out, _ = run("audit", "show", request_id)
    assert SECRET_WORDS not in out
    assert "answered, with the guard on" in out
    _, out, _ = run("audit", "show", request_id, "--content")
    assert SECRET_WORDS in out
    _, out, _ = run("audit", "search", "--kind", "accessed", "--json")
    assert json.loads(out)["record"]["action"] == "content"


@pytest.mark.usefixtures("request_id")
def test_a_changed_ledger_fails_verification(run: Run) -> None:
    assert run("audit", "verify")[0] == 0
    with closing(sqlite3.connect("audit.db")) as connection:
        connection.execute("DROP TRIGGER records_fixed")
        connection.execute(
            "UPDATE records SET record = replace(CAST(record AS TEXT), 'blocked', "
            "'answered') WHERE outcome = 'blocked'"
        )
        connection.execute(TRIGGERS["records_fixed"])
        connection.commit()
    _, out, _ = run("audit", "search", "--kind", "request_finished", "--json")
    seq = str(json.loads(out.splitlines()[0])["seq"])
    for command in (
        ["show", seq],
        ["show", seq, "--json"],
        ["prove", seq],
        ["export", "-f", "evidence", "-o", "evidence.zip"],
    ):
        status, out, err = run("audit", *command)
        assert status == 1, command
        assert re.search("is not what was signed|records were changed", err), command
        assert "Signed:" not in out
    status, out, _ = run("audit", "verify")
    assert status == 1
    assert "NOT VALID" in out
    assert "What this does not prove" in out
    status, out, _ = run("audit", "verify", "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


@pytest.mark.usefixtures("request_id")
def test_a_foreign_key_fails_verification(run: Run) -> None:
    from sarguard.audit.proof.signing_keys import SigningKey

    other = str(SigningKey.generate("other").verifier)
    assert run("audit", "verify", "--key", other)[0] == 1
    assert run("audit", "verify", "--key", "nonsense")[0] == 2
    own = run("audit", "key")[1].strip()
    assert run("audit", "verify", "--key", own)[0] == 0


def test_a_wrong_path_makes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in (["tail"], ["checkpoint"], ["export", "-o", "x"], ["verify"]):
        status, _, err = run("audit", *part)
        assert status == 2
        assert "no ledger at" in err
        assert "audit.db" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("request_id")
def test_without_the_signing_key_it_can_still_be_read(run: Run) -> None:
    Path("audit.db.key").unlink()
    assert run("audit", "tail")[0] == 0
    status, _, err = run("audit", "export", "-f", "jsonl", "-o", "all.jsonl")
    assert status == 0
    assert "not recorded" in err
    assert run("audit", "checkpoint")[0] == 2


@pytest.mark.usefixtures("request_id")
def test_lookup_and_erasure(run: Run) -> None:
    asked = ["audit", "lookup", "--tenant", "acme", "--audio", "question.wav"]
    status, out, _ = run(*asked, "--json")
    assert (status, json.loads(out)["record"]["kind"]) == (0, "request_started")
    assert run(*asked[:4], "--text", "never said")[0] == 1
    erase = ["audit", "erase", "--tenant", "acme", "--session", "call-4"]
    status, _, err = run(*erase)
    assert status == 2
    assert "--yes" in err
    status, out, _ = run(*erase, "--yes", "--json")
    assert (status, json.loads(out)["contents"]) == (0, 3)
    assert run("audit", "verify")[0] == 0


@pytest.mark.usefixtures("request_id")
def test_a_hold_stops_erasure_until_it_is_lifted(run: Run) -> None:
    _, out, _ = run("audit", "hold", "place", "--reason", "case 7", "--json")
    name = json.loads(out)["hold_id"]
    erase = ["audit", "erase", "--tenant", "acme", "--whole-tenant", "--yes"]
    status, _, err = run(*erase)
    assert status == 2
    assert "case 7" in err
    assert run("audit", "hold", "lift", name, "--reason", "closed")[0] == 0
    assert run(*erase)[0] == 0


def test_a_terminal_cannot_be_steered(request_id: str, run: Run) -> None:
    bad = "\x1b[31mred\u202e"
    assert printable(bad) == "\ufffd[31mred\ufffd"
    run("audit", "review", request_id, "missed", "--note", bad)
    _, out, _ = run("audit", "show", request_id)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[31mred" in out


@pytest.mark.usefixtures("request_id")
@pytest.mark.parametrize(
    "part",
    [
        *("verify", "verify --json", "tail", "search", "stats", "show 2", "prove 2"),
        *("checkpoint", "key", "hold list", "retention", "export -o out.csv"),
        *("export -f evidence -o out.zip", "review 3 correct"),
    ],
)
def test_a_ledger_may_have_a_name_that_is_no_text(run: Run, part: str) -> None:
    name = os.fsdecode(b"led\xffger.db")
    try:
        for end in ("", ".key", ".keys", ".sealed"):
            Path(f"audit.db{end}").rename(f"{name}{end}")
    except OSError:
        pytest.skip("this file system takes no such name")
    status, _, err = run("audit", *part.split(), "-l", name)
    assert status == 0, err
