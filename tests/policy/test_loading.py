from __future__ import annotations

import json
from pathlib import Path

import pytest

from sarguard.errors import PolicyFloorError, PolicyFormatError, PolicyNotFoundError
from sarguard.policy.files import preset_names, read_json, read_yaml, write_yaml
from sarguard.policy.model import Policy, open_policy
from sarguard.policy.template import policy_template
from sarguard.policy.tiers import Tier


class Folder:
    """Folder of policy files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class TestPresets:
    def test_there_is_one_for_each_tier(self) -> None:
        for tier in Tier:
            policy = Policy.preset(tier.value)
            assert policy.steering.tier is tier
            assert policy.floor is tier
            assert policy.id == tier.value

    @pytest.mark.parametrize("name", preset_names())
    def test_each_can_be_loaded_and_fails_closed(self, name: str) -> None:
        policy = Policy.preset(name)
        assert policy.id == name
        assert policy.failure.on_fault == "closed"
        assert policy.mode.value == "enforce"
        assert policy.audit.required or name == "development"
        assert policy.description
        assert Policy.preset(f"preset/{name}") == policy

    def test_an_unknown_one_gets_a_suggestion(self) -> None:
        with pytest.raises(PolicyNotFoundError, match="Did you mean balanced"):
            Policy.preset("ballanced")
        with pytest.raises(FileNotFoundError):
            Policy.preset("../presets/strict")


class TestExtending:
    def test_settings_are_merged(self, folder: Folder) -> None:
        folder("house/base.yaml", "id: base\nextends: strict\nretention: {days: 400}\n")
        folder(
            "house/mid.json",
            json.dumps(
                {
                    "id": "mid",
                    "extends": "base.yaml",
                    "fallback": {"messages": {"en": {"error": "Later, please."}}},
                }
            ),
        )
        leaf = folder(
            "leaf.yml",
            "id: leaf\nextends: house/mid.json\nsteering: {tier: maximum}\n"
            "fallback: {messages: {en: {blocked: 'Not that, sorry.'}}}\n",
        )
        policy = Policy.load(leaf)
        assert (policy.id, policy.version, policy.description) == ("leaf", 1, "")
        assert policy.steering.tier is Tier.MAXIMUM
        assert policy.floor is Tier.STRICT, "the floor of what it extends holds"
        assert policy.retention.days == 400
        assert policy.overrides.second_person
        assert policy.message("error").text == "Later, please."
        assert policy.message("blocked").text == "Not that, sorry."

    @pytest.mark.parametrize(
        "steering",
        ["{tier: balanced}", "{floor: balanced}", "{tier: permissive, floor: null}"],
    )
    def test_the_floor_is_never_lowered(self, folder: Folder, steering: str) -> None:
        leaf = folder("leaf.yaml", f"extends: strict\nsteering: {steering}\n")
        with pytest.raises(PolicyFloorError, match="below the floor strict"):
            Policy.load(leaf)

    def test_the_floor_holds_over_two_steps(self, folder: Folder) -> None:
        folder("mid.yaml", "extends: strict\nsteering: {tier: maximum}\n")
        leaf = folder("leaf.yaml", "extends: mid.yaml\nsteering: {floor: balanced}\n")
        with pytest.raises(PolicyFloorError, match=r"mid\.yaml"):
            Policy.load(leaf)

    def test_a_floor_of_nothing_is_the_tier(self, folder: Folder) -> None:
        leaf = folder("l.yaml", "extends: strict\nsteering: {floor: null}\n")
        assert Policy.load(leaf).floor is Tier.STRICT

    def test_a_circle_is_found(self, folder: Folder) -> None:
        folder("a.yaml", "extends: sub/b.yaml\n")
        folder("sub/b.yaml", "extends: ../sub/../c.yaml\n")
        path = folder("c.yaml", "extends: a.yaml\n")
        with pytest.raises(PolicyFormatError, match=r"circle: c\.yaml -> a\.yaml -> b"):
            Policy.load(path)
        alone = folder("self.yaml", "extends: self.yaml\n")
        with pytest.raises(PolicyFormatError, match="circle"):
            Policy.load(alone)

    @pytest.mark.parametrize(
        ("extends", "said"),
        [
            ("strikt", "Did you mean strict"),
            ("no.yaml", "there is no policy file"),
            ("[strict, balanced]", "name one preset"),
            ("3", "name one preset"),
        ],
    )
    def test_what_cannot_be_extended_is_named(
        self, folder: Folder, extends: str, said: str
    ) -> None:
        with pytest.raises((PolicyNotFoundError, PolicyFormatError), match=said):
            Policy.load(folder("a.yaml", f"extends: {extends}\n"))

    def test_a_mistake_in_what_is_extended_names_that_file(
        self, folder: Folder
    ) -> None:
        folder("base.yaml", "steering: {teir: strict}\n")
        with pytest.raises(PolicyFormatError, match=r"base\.yaml is not a policy"):
            Policy.load(folder("leaf.yaml", "extends: base.yaml\n"))

    def test_extends_is_for_files(self) -> None:
        with pytest.raises(PolicyFormatError, match="extends: unknown key"):
            Policy.build({"extends": "strict"})


class TestReading:
    def test_words_stay_text(self) -> None:
        text = "a: no\nb: on\nc: 12:30\nd: 2026-03-01\ne: 0o7\nf: 1_0\nno: x\n.nan: y"
        assert read_yaml(text, source="x") == {
            **{"a": "no", "b": "on", "c": "12:30", "d": "2026-03-01", "e": "0o7"},
            **{"f": "1_0", "no": "x", ".nan": "y"},
        }

    def test_scalars_are_those_of_yaml_1_2(self) -> None:
        text = "a: 1\nb: -2.5\nc: 1e3\nd: true\ne: null\nf:\ng: ~\nh: 'true'\ni: .5"
        assert read_yaml(text, source="x") == {
            **{"a": 1, "b": -2.5, "c": 1000.0, "d": True, "e": None, "f": None},
            **{"g": None, "h": "true", "i": 0.5},
        }

    def test_the_loader_leaves_the_library_s_alone(self) -> None:
        import yaml

        assert yaml.safe_load("a: no") == {"a": False}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: 1\na: 2", "duplicate key 'a'"),
            ("s:\n  t: 1\n  t: 2", "line 3"),
            ("a: &x 1\nb: *x", "write the value out"),
            ("a: !!python/object/apply:os.system [x]", "constructor"),
            ("<<: {a: 1}\nb: [", "is not YAML"),
            ("", "empty"),
            ("- a", "a list"),
            ("just words", "a str"),
            ("a: 1\n---\nb: 2", "is not YAML"),
            ("a: \x00", "is not YAML"),
            ("[" * 1200, "x"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_what_is_ambiguous_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(PolicyFormatError, match=said):
            read_yaml(text, source="x")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"a": 1, "a": 2}', "duplicate key 'a'"),
            ('{"a": NaN}', "NaN"),
            ('{"a": 1', "is not JSON"),
            ("[]", "a list"),
            ("[" * 200_000, "x"),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_json_is_as_strict(self, text: str, said: str) -> None:
        with pytest.raises(PolicyFormatError, match=said):
            read_json(text, source="x")

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("p.toml", b"id = 1", "does not end in .yaml"),
            ("p.yaml", b"\xff\xfe\x00", "is not UTF-8 text"),
            ("p.yaml", b"#" * (2**20 + 1), "larger than"),
        ],
        ids=["ending", "bytes", "size"],
    )
    def test_a_file_that_cannot_be_one_is_refused(
        self, tmp_path: Path, name: str, content: bytes, said: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(PolicyFormatError, match=said):
            Policy.load(path)

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyNotFoundError, match="sarguard policy init"):
            Policy.load(tmp_path / "no.yaml")
        (tmp_path / "folder.yaml").mkdir()
        with pytest.raises(PolicyFormatError, match="cannot be read"):
            Policy.load(tmp_path / "folder.yaml")

    def test_a_byte_order_mark_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "p.yaml"
        path.write_bytes(b"\xef\xbb\xbfid: clinic\n")
        assert Policy.load(path).id == "clinic"


class TestWriting:
    @pytest.mark.parametrize("name", preset_names())
    def test_a_template_is_the_preset_under_another_name(
        self, folder: Folder, name: str
    ) -> None:
        path = folder("p.yaml", policy_template("mine", extends=name))
        preset = Policy.preset(name).to_dict()
        named = {"id": "mine", "description": "", "version": 1}
        assert Policy.load(path).to_dict() == {**preset, **named}

    @pytest.mark.parametrize("name", preset_names())
    def test_what_is_written_reads_back_the_same(self, name: str) -> None:
        policy = open_policy(name)
        again = read_yaml(write_yaml(policy.to_dict()), source="x")
        assert Policy.build(again).digest == policy.digest

    def test_an_ambiguous_word_survives(self) -> None:
        values = {
            "a": "no",
            "b": "12:30",
            "c": "null",
            "d": "1e3",
            "e": "true",
            "f": "",
            "g": ".5",
            "h": "2026-03-01",
        }
        assert read_yaml(write_yaml(values), source="x") == values

    def test_a_name_that_is_none_is_refused(self) -> None:
        with pytest.raises(PolicyFormatError):
            policy_template("a b\nmode: shadow", extends="strict")
