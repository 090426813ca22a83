from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import soundfile

from sarguard.cli.evaluate.options import command_line
from sarguard.cli.evaluate.plan import (
    choose_items,
    fill_in,
    leave_out_clips,
    plan_run,
)
from sarguard.cli.main import build_parser
from sarguard.errors import InsufficientDataError
from sarguard.evaluation.arms.registry import _BUILDERS
from sarguard.evaluation.report.threats import BEGIN, END
from sarguard.evaluation.run import runner
from sarguard.policy.model import Policy
from tests import tiny
from tests.cli.conftest import Run
from tests.evaluation.test_public_sets import put_figstep


@pytest.fixture
def options(checkpoint: str, bundle: str) -> list[str]:
    quick = ["--max-new-tokens", "2", "--limit", "2", "--alphas", "0.1,0.3"]
    return [checkpoint, "--bundle", bundle, *quick]


def test_the_table_goes_to_stdout_and_files_are_written(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("t.json", "t.md")}
    status, out, err = run(
        *("evaluate", *options),
        *("--json", str(files["t.json"]), "--markdown", str(files["t.md"])),
    )
    assert status == 0
    assert "2 harmful, 2 safe, 2 borderline, 2 ordinary requests" in " ".join(
        out.split()
    )
    assert "8 requests in 12 arms" in err
    content = json.loads(files["t.json"].read_text())
    assert [row["arm"] for row in content["arms"]] == [
        *("bare", "prompt", "raw 0.1", "raw 0.3", "ablated 0.1", "ablated 0.3"),
        *("tier-permissive", "tier-balanced", "tier-strict", "tier-maximum"),
        *("random 0.1", "random 0.3"),
    ]
    assert content["judge"]["judge"] == "rules"
    assert "| ablated 0.3 |" in files["t.md"].read_text()


def test_a_run_is_kept_and_not_asked_again(
    run: Run, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    line = ["evaluate", *options, "--suites", "harmful,safe", "--arms", "bare,ablated"]
    line += ["--variants", "noise,unseen-voice", "--out", str(folder), "--latency", "1"]
    assert run(*line)[0] == 0
    names = sorted(path.name for path in folder.iterdir())
    reports = ["curve.svg", "report.html", "report.json", "report.md"]
    assert names == ["answers.jsonl", *reports, "run.json"]
    rows = [json.loads(row) for row in (folder / "answers.jsonl").open()]
    assert len(rows) == 3 * 4 * 3
    assert {row["variant"] for row in rows} == {"clean", "noise", "unseen-voice"}
    content = json.loads((folder / "report.json").read_text())
    assert len(content["separation"]["along_vector"]) == 3
    assert content["latency"][0]["arm"] == "bare"

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runner, "answer_arm", never)
    assert run(*line)[0] == 0
    assert json.loads((folder / "report.json").read_text())["arms"] == content["arms"]
    status, _, err = run(*line, "--text", "Say why.")
    assert status == 2
    assert "another requests, text" in err


def test_json_can_have_stdout_to_itself(run: Run, options: list[str]) -> None:
    quick = ["--suites", "harmful,safe", "--arms", "bare,zero", "--no-topic"]
    status, out, err = run("evaluate", *options, *quick, "--json=-")
    assert status == 0
    content = json.loads(out)
    assert [row["arm"] for row in content["arms"]] == ["bare", "zero"]
    assert any("as the bare model does" in f["text"] for f in content["findings"])
    assert "harmful" in err


def test_a_policy_is_measured_and_named(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    file, folder = tmp_path / "clinic.yaml", tmp_path / "run"
    written = "id: clinic\nversion: {}\nsteering:\n  block_threshold: -1000.0\n"
    file.write_text(written.format(4))
    policies = ["--policy", str(file), "--policy", "strict"]
    quick = ["--suites", "harmful,safe", "--arms", "bare", "--no-topic"]
    line = ["evaluate", *options, *quick, *policies, "--out", str(folder)]
    status, out, err = run(*line)
    assert status == 0, err
    content = json.loads((folder / "report.json").read_text())
    names = ["bare", "policy clinic", "policy strict"]
    assert [row["arm"] for row in content["arms"]] == names
    clinic = Policy.load(file)
    assert content["policies"][0] == clinic.record_fields()
    refused = content["arms"][1]["figures"]
    assert refused["harmful_refused"]["value"] == refused["brr"]["value"] * 2 == 1.0
    table = f"| policy clinic | 4 | {clinic.digest} | enforce | balanced | balanced |"
    assert table in (folder / "report.md").read_text()
    assert clinic.digest in (folder / "report.html").read_text()
    assert "policy clinic" in out
    assert shlex.join(policies) in content["command"]
    file.write_text(written.format(5))
    assert "another policies: resume" in run(*line)[2]


def test_own_pairs_and_public_sets_take_the_place_of_the_suites(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tiny.clip(0.5), tiny.RATE)
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text('{"harmful": "a.wav", "safe": "b.wav"}\n')
    put_figstep(tmp_path / "figstep")
    own = ["--pairs", str(manifest), "--public", f"figstep={tmp_path / 'figstep'}"]
    content = json.loads(
        run("evaluate", *options, *own, "--arms", "bare", "--json", "-")[1]
    )
    assert content["requests"] == {"harmful": 3, "safe": 3}


def test_settings_reach_the_measurement(
    run: Run, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def stop(setup: object, items: object, arms: object, **settings: object) -> None:
        seen.extend([items, settings["run_options"]])
        raise InsufficientDataError("enough seen")

    monkeypatch.setattr(runner, "run_arms", stop)
    quick = ["--text", "Say why.", "--batch-size", "3", "--no-topic"]
    run("evaluate", *options, *quick, "--voice", "unseen")
    items, run_options = seen
    assert {item.text for item in items} == {"Say why."}  # type: ignore[attr-defined]
    assert all(item.id.endswith("-unseen") for item in items)  # type: ignore[attr-defined]
    assert (run_options.batch_size, run_options.max_new_tokens) == (3, 2)  # type: ignore[attr-defined]
    assert run_options.topic is None  # type: ignore[attr-defined]


def test_the_judge_can_be_checked_without_a_model(run: Run) -> None:
    status, out, _ = run("evaluate", "--check-judge")
    assert status == 0
    assert "kappa 0.86 (tune: " in " ".join(out.split())
    status, out, _ = run("evaluate", "--check-judge", "--json", "-")
    found = json.loads(out)
    assert found["answers"] == 500
    assert list(found["parts"]) == ["tune", "held-out"]
    assert found["confusion"]["dodged"]["dodged"] > 60


def say_no(*, request: str, reply: str, kind: str) -> str:
    """Be a judge that calls everything refused."""
    return "refused"


NO_JUDGE = 3
SAYS_NO = f"{__name__}:say_no"


def test_a_second_judge_can_be_checked_beside_the_first(run: Run) -> None:
    given = ["--check-judge", "--second-judge", SAYS_NO]
    status, out, _ = run("evaluate", *given)
    assert status == 0
    assert "Judge: rules." in out
    assert "Judge: say_no." in " ".join(out.split())
    _, out, _ = run("evaluate", *given, "--json", "-")
    second = json.loads(out)["second_judge"]
    assert (second["judge"], second["kappa"]) == ("say_no", 0)


def test_two_judges_label_one_run(run: Run, options: list[str], tmp_path: Path) -> None:
    few = ["--arms", "bare,ablated", "--alphas", "0.1", "--limit", "2", "--no-topic"]
    out = ["--out", str(tmp_path / "run"), "--second-judge", SAYS_NO]
    status, said, _ = run("evaluate", *options, *few, *out)
    assert status == 0
    assert "Two judges, by arm" in said
    content = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert content["also_judged_by"] == "say_no"
    second = content["second_judge"]
    assert (second["judge"], second["against"]) == ("say_no", "rules")
    assert all(row["harmful_refused"][1] == 1.0 for row in second["arms"])
    assert sum(row["answers"] for row in second["arms"]) == second["answers"]
    lines = (tmp_path / "run" / "answers.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["second_label"] for line in lines} == {"refused"}
    # A run is not resumed with other judges.
    status, _, error = run("evaluate", *options, *few, *out[:2])
    assert status == 2
    assert "also_judged_by" in error


def test_contexts_attacks_and_tries_are_one_run(
    run: Run, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", tiny.clip(0.5), tiny.RATE)
    own = tmp_path / "own.yaml"
    own.write_text("contexts: [{name: desk, system: You answer the phone.}]")
    calls = tmp_path / "calls.jsonl"
    calls.write_text('{"clip": "a.wav", "kind": "harmful"}\n{"clip": "a.wav"}\n')
    page = tmp_path / "threats.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    folder = tmp_path / "run"
    line = ["evaluate", *options, "--no-topic", "--out", str(folder)]
    line += ["--suites", "harmful,safe", "--suite", f"calls={calls}"]
    line += ["--contexts", f"turn-2,schema,{own}", "--attacks", "quiet,stop-strings"]
    line += ["--variants", "mu-law", "--temperatures", "0,1", "--tries", "2"]
    line += ["--threats", str(page)]
    status, _, err = run(*line)
    assert status == 0, err
    rows = [json.loads(row) for row in (folder / "answers.jsonl").open()]
    keys = {(r["arm"], r["item"], r["temperature"], r["attempt"]) for r in rows}
    requests, harmful, arms = 2 + 2 + 2, 2 + 1, 1 + 4
    changed = requests * (3 + 1) + harmful * 2
    sampled = harmful * 2 + (requests - harmful)
    total = (requests + changed + sampled) * arms
    assert len(keys) == len(rows) == total
    content = json.loads((folder / "report.json").read_text())
    found = {(c["table"], c["name"]) for c in content["conditions"]}
    assert found == {
        *(("context", name) for name in ("alone", "turn-2", "schema", "desk")),
        *(("variant", name) for name in ("alone", "mu-law")),
        *(("attack", name) for name in ("alone", "quiet", "stop-strings")),
        ("attack", "retry, best of 2 at temperature 1"),
        ("sampling", "greedy"),
        ("sampling", "temperature 1"),
        ("sampling", "temperature 1, best of 2"),
        ("suite", "calls"),
    }
    assert content["decoding"] == "greedy, and 2 time(s) at temperature 1"
    assert "| quiet |" in page.read_text()
    assert "By context" in (folder / "report.html").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(runner, "answer_arm", never)
    assert run(*line)[0] == 0
    assert json.loads((folder / "report.json").read_text()) == content
    assert "another decoding" in run(*line, "--tries", "3")[2]


@pytest.mark.parametrize(
    ("given", "arms", "varied", "temperatures", "tries"),
    [
        ([], 12, None, (), 1),
        (["--attacks"], 5, {"bare", "tiers"}, (1.0,), 8),
        (["--attacks", "--tries", "3"], 5, {"bare", "tiers"}, (1.0,), 3),
        (
            ["--attacks", "quiet", "--temperatures", "0.7", "--varied-arms", "bare"],
            *(5, {"bare"}, (0.7,), 1),
        ),
        (["--contexts", "all"], 5, {"bare", "tiers"}, (), 1),
        (["--contexts", "all", "--arms", "bare"], 1, {"bare"}, (), 1),
        (
            ["--contexts", "bank", "--policy", "strict"],
            *(6, {"bare", "tiers", "policy"}, (), 1),
        ),
    ],
)
def test_what_is_left_open_is_filled_in(
    given: list[str],
    arms: int,
    varied: set[str] | None,
    temperatures: tuple[float, ...],
    tries: int,
) -> None:
    options = build_parser().parse_args(["evaluate", *given, "--alphas", "0.1,0.3"])
    fill_in(options)
    plan = plan_run(options)
    assert len(plan.arms) == arms
    asked = {"tiers" if a.name.startswith("tier-") else a.name for a in plan.varied}
    assert varied is None or asked == varied
    assert (options.temperatures, options.tries) == (temperatures, tries)


def test_a_model_that_takes_one_clip_is_asked_what_it_can_hear() -> None:
    options = build_parser().parse_args(
        ["evaluate", "--contexts", "all", "--suites", "harmful", "--limit", "1"]
    )
    fill_in(options)
    chosen = choose_items(options)
    kept = leave_out_clips(chosen, single_audio=True)
    assert leave_out_clips(chosen, single_audio=False) == chosen
    left = {item.variant for item in chosen} - {item.variant for item in kept}
    assert {"clip-before", "turn-2"} <= left
    assert {"clean", "bank", "acknowledged"} <= {item.variant for item in kept}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--contexts", "odd"], "no context odd"),
        (["--contexts", "nowhere.yaml"], "nowhere.yaml"),
        (["--attacks", "odd"], "no attack odd"),
        (["--temperatures", "-1"], "give temperatures"),
        (["--temperatures", "0,,1"], "parted by commas"),
        (["--suite", "odd"], "give NAME=MANIFEST"),
        (["--threats", "nowhere.md"], "there is no page nowhere.md"),
        (["--arms", "bare,best"], "no arm best"),
        (["--variants", "odd"], "no variant odd"),
        (["--suites", "odd"], "no suite odd"),
        (["--judge-url", "http://x"], "both --judge-url and --judge-model"),
        (
            ["--second-judge-model", "x"],
            "both --second-judge-url and --second-judge-model",
        ),
        (["--second-judge", "rules"], "both judges are called rules"),
        (["--second-judge", "odd"], "give rules, or MODULE:NAME"),
        (["--second-judge", "no.such:judge"], "cannot be imported"),
        (["--second-judge", f"{__name__}:none_such"], "cannot be imported"),
        (["--second-judge", f"{__name__}:NO_JUDGE"], "neither a function nor a judge"),
        (["--public", "odd=x"], "give SET=PATH"),
        (["--split", "demo", "--suites", "ordinary"], "no request is left"),
        (["--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["--policy", "strict", "--policy", "strict"], "two policies are called"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_model_is_loaded(
    given: list[str], says: str, run: Run, options: list[str]
) -> None:
    status, out, err = run("evaluate", *options, *given)
    assert (status, out) == (2, "")
    assert says in err
    assert "Loading" not in err


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_file_that_cannot_be_written_is_found_at_once(
    option: str, run: Run, options: list[str], tmp_path: Path
) -> None:
    for file in (tmp_path / "nowhere" / "t", tmp_path):
        status, out, err = run("evaluate", *options, option, str(file))
        assert (status, out) == (2, "")
        assert f"cannot write {file}" in err
        assert "Loading" not in err


def test_a_bundle_of_another_model_is_refused(
    run: Run, other_checkpoint: str, bundle: str
) -> None:
    status, _, err = run("evaluate", other_checkpoint, "--bundle", bundle)
    assert status == 2
    assert "the bundle was made for" in err


@pytest.mark.parametrize(
    "line",
    [
        "sarguard evaluate",
        "sarguard evaluate --limit 40 --alphas 0.05,0.1,0.15",
        "sarguard evaluate own/model --bundle b --variants noise,lower --no-topic "
        "--public figstep=/a --public xstest=/b --text 'Say why.' --arms bare,zero",
        "sarguard evaluate --contexts all,own.yaml --temperatures 0,0.7,1 --tries 8 "
        "--suite calls=calls.jsonl --threats docs/threats.md",
        "sarguard evaluate --attacks all --variants noise,mu-law",
    ],
)
def test_the_report_names_the_command_that_makes_it(line: str) -> None:
    words = shlex.split(line)[1:]
    options = build_parser().parse_args(words)
    made = shlex.split(command_line(options))
    again = build_parser().parse_args(made[1:])
    ours, theirs = vars(again), vars(options)
    for name in ("run", "parser"):
        ours.pop(name)
        theirs.pop(name)
    assert ours == theirs
    assert len(made) == len(words) + 1


@pytest.mark.parametrize(
    ("given", "arms", "varied"),
    [
        (["--full"], 27, {"bare", "tier-balanced"}),
        (["--forms"], 15, None),
        (["--full", "--policy", "strict"], 28, {"bare", "tier-balanced", "policy"}),
        (
            ["--arms", "bare", "--policy", "strict", "--varied-arms", "policy"],
            2,
            {"policy"},
        ),
        (["--arms", "bare,ablated", "--varied-arms", "bare"], 5, {"bare"}),
    ],
)
def test_arms_are_planned(
    given: list[str],
    arms: int,
    varied: set[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sarguard.evaluation.arms.registry._BUILDERS", dict(_BUILDERS))
    options = build_parser().parse_args(["evaluate", *given])
    fill_in(options)
    found = plan_run(options)
    assert len(found.arms) == len(set(found.arms)) == arms
    names = {arm.name for arm in found.varied}
    assert names == (varied or {arm.name for arm in found.arms})
    if "--full" in given:
        timed = [str(arm) for arm in found.timed]
        assert timed == ["bare", "prompt", "ablated 0.05", "tier-balanced"]
        assert options.variants == ("unseen-voice", "noise")
        assert {a.alpha for a in found.arms if a.name == "random"} == {0.1, 0.3}


def test_a_report_is_published(run: Run, options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "evaluation"
    quick = ["--suites", "harmful,safe", "--arms", "bare", "--no-topic"]
    assert run("evaluate", *options, *quick, "--publish", str(folder))[0] == 0
    names = ["curve.svg", "report.html", "report.json", "report.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
