from __future__ import annotations

import json
from pathlib import Path

import pytest

from sarguard.policy.model import Policy
from tests.cli.conftest import Run


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "clinic.yaml"
    path.write_text("id: clinic\nextends: strict\n", "utf-8")
    return str(path)


@pytest.fixture
def weak(tmp_path: Path) -> str:
    path = tmp_path / "weak.yaml"
    path.write_text("id: weak\nextends: strict\nmode: shadow\n", "utf-8")
    return str(path)


class TestInit:
    def test_what_it_writes_is_sound(self, run: Run, tmp_path: Path) -> None:
        path = str(tmp_path / "new.yaml")
        status, out, _ = run("policy", "init", "-o", path, "--extends", "strict")
        assert status == 0
        assert f"sarguard policy lint {path}" in out
        assert Policy.load(path).id == "my-policy"
        assert run("policy", "lint", path)[0] == 0

    def test_it_replaces_nothing_unasked(self, run: Run, policy: str) -> None:
        status, out, err = run("policy", "init", "-o", policy)
        assert (status, out) == (2, "")
        assert "--force" in err
        assert Policy.load(policy).id == "clinic"
        assert run("policy", "init", "-o", policy, "--force", "--id", "a")[0] == 0
        assert Policy.load(policy).id == "a"

    def test_it_writes_to_stdout(self, run: Run) -> None:
        assert "extends: balanced" in run("policy", "init", "-o", "-")[1]

    def test_an_unknown_preset_gets_a_suggestion(self, run: Run) -> None:
        status, _, err = run("policy", "init", "-o", "-", "--extends", "strickt")
        assert status == 2
        assert "Did you mean strict" in err


class TestLint:
    def test_weak_settings_are_an_exit_status(
        self, run: Run, policy: str, weak: str
    ) -> None:
        status, out, _ = run("policy", "lint", policy)
        assert (status, out) == (0, f"{policy}: nothing weak found\n")
        status, out, _ = run("policy", "lint", policy, weak)
        assert status == 1
        assert f"{weak}: warning P101 mode: " in out
        assert "-> set mode: enforce" in out

    def test_notes_count_only_when_strict(self, run: Run) -> None:
        assert run("policy", "lint", "balanced")[0] == 0
        assert run("policy", "lint", "balanced", "--strict")[0] == 1

    def test_as_json(self, run: Run, weak: str) -> None:
        status, out, _ = run("policy", "lint", weak, "--json")
        assert status == 1
        assert [found["code"] for found in json.loads(out)[weak]] == ["P101"]

    def test_what_is_no_policy_is_an_error(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "typo.yaml"
        path.write_text("steering: {teir: strict}\n", "utf-8")
        status, out, err = run("policy", "lint", str(path))
        assert (status, out) == (2, "")
        assert "Did you mean steering.tier?" in err
        assert "Traceback" not in err


class TestShow:
    def test_it_shows_all_that_holds(
        self, run: Run, policy: str, tmp_path: Path
    ) -> None:
        out = run("policy", "show", policy)[1]
        assert out.startswith(f"# {Policy.load(policy).digest}\n")
        again = tmp_path / "again.yaml"
        again.write_text(out, "utf-8")
        assert run("policy", "show", str(again), "--digest") == (
            *(0, f"{Policy.load(policy).digest}\n", ""),
        )

    def test_other_forms(self, run: Run, policy: str) -> None:
        held = Policy.load(policy)
        assert run("policy", "show", policy, "--canonical")[1] == held.canonical()
        found = json.loads(run("policy", "show", policy, "--json")[1])
        assert found == {"digest": held.digest, "policy": held.to_dict()}

    def test_a_preset_has_a_name(self, run: Run) -> None:
        digest = run("policy", "show", "strict", "--digest")[1].strip()
        assert digest == Policy.preset("strict").digest


class TestDiff:
    def test_the_same_settings_are_no_difference(self, run: Run, policy: str) -> None:
        assert run("policy", "diff", policy, policy)[:2] == (0, "the same settings\n")

    def test_each_change_says_what_it_does(
        self, run: Run, policy: str, weak: str
    ) -> None:
        status, out, _ = run("policy", "diff", policy, weak)
        assert status == 1
        assert out.splitlines() == [
            "~ id: clinic -> weak (other)",
            "- mode: enforce -> shadow (weaker)",
        ]
        assert (
            "+ mode: shadow -> enforce (stronger)"
            in (run("policy", "diff", weak, policy)[1])
        )

    def test_as_json(self, run: Run, policy: str, weak: str) -> None:
        found = json.loads(run("policy", "diff", policy, weak, "--json")[1])
        assert found["old"] == Policy.load(policy).digest
        assert found["changes"][1] == {
            **{"path": "mode", "old": "enforce", "new": "shadow"},
            "effect": "weaker",
        }


def test_the_schema_is_json(run: Run) -> None:
    status, out, _ = run("policy", "schema")
    assert status == 0
    assert "extends" in json.loads(out)["properties"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["lint"], ["show"], ["diff", "a.yaml"], ["show", "a", "--yaml"]],
    ids=str,
)
def test_senseless_options_are_refused(run: Run, arguments: list[str]) -> None:
    status, out, err = run("policy", *arguments)
    assert (status, out) == (2, "")
    assert "error:" in err


@pytest.mark.parametrize("part", ["init", "lint", "show", "diff", "schema"])
def test_every_part_has_help(run: Run, part: str) -> None:
    assert part in run("policy", "--help")[1]
    assert run("policy", part, "--help")[0] == 0
