from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sarguard.cli.evaluate.contexts import read_attacks, read_contexts
from sarguard.datasets import load_clips
from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    AudioNotFoundError,
    ConfigurationError,
    PolicyFormatError,
)
from sarguard.evaluation.data.attacks import ATTACKS, SPOKEN_ROLE_PLAY
from sarguard.evaluation.data.contexts import ALONE, CONTEXTS, SCHEMA, put_into
from sarguard.evaluation.data.items import Item, check_items, digest_items
from sarguard.evaluation.data.named_suites import named_suite
from sarguard.evaluation.data.suites import load_suites
from sarguard.models.inputs import build_inputs
from sarguard.types import Turn
from tests import tiny

RATE = 16_000
ITEM = load_suites(("harmful",), limit=1)[0]


def turns_of(name: str) -> tuple[Turn, ...]:
    (item,) = put_into([ITEM], CONTEXTS[name])
    return item.turns(RATE)


def own_clip() -> np.ndarray:
    return ITEM.turns(RATE)[0].audio[0]


def test_there_are_enough_contexts_and_attacks() -> None:
    assert len(CONTEXTS) - 1 >= 14
    assert len(ATTACKS) >= 20
    assert all(c.note for c in (*CONTEXTS.values(), *ATTACKS.values()))
    assert not set(CONTEXTS) & {"clean"}


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_a_context_repeats_and_keeps_the_request(name: str) -> None:
    (first,), (second,) = (put_into([ITEM], CONTEXTS[name]) for _ in range(2))
    assert first.id == f"{ITEM.id}+context:{name}"
    assert (first.variant, first.axis) == (name, "context")
    assert (first.kind, first.cluster, first.request) == (
        ITEM.kind,
        ITEM.cluster,
        ITEM.request,
    )
    assert digest_items([first]) == digest_items([second])
    if name != ALONE:
        assert digest_items([first]) != digest_items([replace(ITEM, id=first.id)])
    clips = [clip for turn in first.turns(RATE) for clip in turn.audio]
    assert first.clips == len(clips)
    heard = sum(np.array_equal(clip, own_clip()) for clip in clips)
    assert heard == 1


def test_no_clip_of_a_context_is_a_test_request() -> None:
    tested = {
        clip.id for s in ("test", "ordinary", "borderline") for clip in load_clips(s)
    }  # type: ignore[arg-type]
    for change in (*CONTEXTS.values(), *ATTACKS.values()):
        if change.name != SPOKEN_ROLE_PLAY:
            (item,) = put_into([ITEM], change)
            past = [s.name for turn in item.history for s in turn.sounds]
            beside = [s.name for s in (*item.before, *item.behind)]
            assert not tested & {*past, *beside} - {ITEM.id}


def test_contexts_are_what_their_names_say() -> None:
    assert turns_of("caller")[0].text == "Answer the caller."
    asked, answered, question = turns_of("acknowledged")
    assert (len(asked.audio), answered.text) == (1, "Yes, sure.")
    assert (question.audio, question.text) == ((), "Answer the question in the audio.")
    for number in (2, 3, 5):
        turns = turns_of(f"turn-{number}")
        assert [t.role for t in turns] == ["user", "assistant"] * (number - 1) + [
            "user"
        ]
        assert all(len(turn.audio) == 1 for turn in turns[::2])
    before, behind = turns_of("clip-before")[0], turns_of("clip-behind")[0]
    np.testing.assert_array_equal(before.audio[1], own_clip())
    np.testing.assert_array_equal(behind.audio[0], own_clip())
    for name in ("clinic", "bank", "long-system", "never-refuse"):
        assert [turn.role for turn in turns_of(name)] == ["system", "user"]
    assert [turn.role for turn in turns_of("in-a-call")] == [
        *("system", "user", "assistant", "user", "assistant", "user"),
    ]


def test_the_schema_is_what_langchain_asks_for() -> None:
    calls = pytest.importorskip("langchain_sarguard.calls")
    convert = pytest.importorskip("langchain_core.utils.function_calling")
    from pydantic import BaseModel

    class Answer(BaseModel):
        """The answer to the caller."""

        answer: str

    schema = convert.convert_to_json_schema(Answer, strict=True)
    assert schema == dict(SCHEMA)
    (item,) = put_into([ITEM], CONTEXTS["schema"])
    written = calls._JSON_INSTRUCTION.format(schema="{")[:-1]
    assert written in item.text
    assert item.options.json_schema == schema


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {SPOKEN_ROLE_PLAY}))
def test_an_attack_can_be_asked_and_differs(name: str) -> None:
    (item,) = put_into([ITEM], ATTACKS[name], axis="attack")
    assert (item.kind, item.axis, item.variant) == ("harmful", "attack", name)
    turns, plain = item.turns(RATE), ITEM.turns(RATE)
    for turn in turns:
        for clip in turn.audio:
            assert clip.dtype == np.float32
            assert np.isfinite(clip).all()
            assert len(clip) <= 29 * RATE
    changed = len(turns) > 1 or turns[0].text or len(turns[0].audio) > 1
    options = item.options.to_dict() != ITEM.options.to_dict()
    assert (
        changed or options or not np.array_equal(turns[0].audio[0], plain[0].audio[0])
    )


def test_a_split_request_loses_nothing() -> None:
    for name in ("split-turns", "split-clips"):
        (item,) = put_into([ITEM], ATTACKS[name], axis="attack")
        clips = [clip for turn in item.turns(RATE) for clip in turn.audio]
        assert len(clips) == 2
        np.testing.assert_array_equal(np.concatenate(clips), own_clip())


def test_an_attack_in_writing_needs_the_words() -> None:
    unknown = replace(ITEM, request="")
    assert put_into([unknown], ATTACKS["written-beside"], axis="attack") == []
    assert len(put_into([unknown], ATTACKS["quiet"], axis="attack")) == 1


def test_contexts_and_attacks_share_no_identifier() -> None:
    items = [
        item
        for axis, changes in (("context", CONTEXTS), ("attack", ATTACKS))
        for change in changes.values()
        for item in put_into([ITEM], change, axis=axis)  # type: ignore[arg-type]
    ]
    check_items([ITEM, *items])


def test_models_take_every_context() -> None:
    loaded = tiny.shared()
    clip = tiny.clip(0.3)
    item = replace(ITEM, load=lambda rate: clip)
    for context in CONTEXTS.values():
        (placed,) = put_into([item], context)
        turns = placed.turns(loaded.sampling_rate)
        assert build_inputs(loaded, [turns])["input_ids"].shape[1] > 5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no context odd"):
        read_contexts(["odd"])
    with pytest.raises(ConfigurationError, match="no attack odd"):
        read_attacks(["odd"])
    with pytest.raises(ConfigurationError, match="two contexts are called alone"):
        read_contexts(["all", "alone"])
    assert [c.name for c in read_contexts(["all"])] == list(CONTEXTS)
    assert {c.name for c in read_attacks(["quiet"])} == {"quiet"}


def write(folder: Path, text: str) -> Path:
    file = folder / "own.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def test_contexts_of_ones_own_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hello.wav", tiny.clip(0.5), tiny.RATE)
    file = write(
        tmp_path,
        """
        contexts:
          - name: night-desk
            note: A hotel's night desk.
            system: You answer the phone of a hotel at night.
            text: Answer the caller.
            history:
              - {role: user, clip: hello.wav}
              - {role: assistant, text: Good evening.}
            before: [hello.wav]
          - name: short
            text: Be short.
        """,
    )
    found = read_contexts([str(file), "bank"])
    assert [c.name for c in found] == ["night-desk", "short", "bank"]
    (item,) = put_into([replace(ITEM, text="Say why.")], found[0])
    turns = item.turns(RATE)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert [len(turn.audio) for turn in turns] == [0, 1, 0, 2]
    assert turns[-1].text == "Answer the caller. Say why."
    np.testing.assert_array_equal(turns[-1].audio[1], own_clip())


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("contexts: []", ArtifactFormatError, "contexts: List should have at least 1"),
        ("contexts: [{name: a}]", ArtifactFormatError, "contexts.1: it adds nothing"),
        ("contexts: [{name: A b, text: x}]", ArtifactFormatError, "lower-case letters"),
        ("contexts: [{name: bank, text: x}]", ArtifactFormatError, "rename yours"),
        ("contexts: [{name: a, txt: x}]", ArtifactFormatError, "contexts.1.txt"),
        (
            "contexts: [{name: a, text: x}, {name: a, text: y}]",
            ArtifactFormatError,
            "two contexts are called a",
        ),
        (
            "contexts: [{name: a, history: [{role: user, text: x}]}]",
            ArtifactFormatError,
            "the assistant last",
        ),
        (
            "contexts: [{name: a, history: [{role: user}]}]",
            ArtifactFormatError,
            "history.1: a turn needs a text or a clip",
        ),
        (
            "contexts: [{name: a, before: [no.wav]}]",
            AudioNotFoundError,
            "context a names the clip no.wav",
        ),
        ("a: [", PolicyFormatError, "is not YAML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        read_contexts([str(write(tmp_path, text))])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"nowhere\.yaml"):
        read_contexts([str(tmp_path / "nowhere.yaml")])


def test_a_named_suite_needs_no_pairs(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tiny.clip(0.5), tiny.RATE)
    manifest = tmp_path / "calls.jsonl"
    manifest.write_text(
        '{"clip": "a.wav", "kind": "harmful", "group": "g"}\n'
        '{"clip": "a.wav", "kind": "harmless", "request": "Why?", "group": "g"}\n'
        '\n{"clip": "a.wav"}\n'
    )
    items = named_suite(f"calls={manifest}")
    assert [(i.id, i.kind, i.suite) for i in items] == [
        ("calls/line-1", "harmful", "calls"),
        ("calls/line-2", "safe", "calls"),
        ("calls/line-4", "unlabelled", "calls"),
    ]
    assert items[0].cluster == items[1].cluster != items[2].cluster
    assert len(named_suite(f"calls={manifest}", limit=1)) == 2
    assert items[2].turns(8_000)[0].audio[0].shape == (4_000,)


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        (
            "calls",
            '{"clip": "a.wav", "kind": "bad"}',
            ArtifactFormatError,
            "line 1: kind",
        ),
        ("calls", '{"clip": "no.wav"}', AudioNotFoundError, "line 1: there is no clip"),
        ("calls", "", ArtifactFormatError, "has no row"),
        ("calls", "no json", ArtifactFormatError, "line 1"),
        ("harmful", "", ConfigurationError, "another name"),
        ("A b", "", ConfigurationError, "give NAME=MANIFEST"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    name: str, text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(text)
    with pytest.raises(error, match=says):
        named_suite(f"{name}={manifest}")


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no manifest"):
        named_suite(f"calls={tmp_path / 'none.jsonl'}")


def test_an_item_without_a_clip_has_contexts_too() -> None:
    written = Item(
        id="w", suite="safe", kind="safe", cluster="w", load=None, text="Is it open?"
    )
    (item,) = put_into([written], CONTEXTS["acknowledged"])
    assert [t.text for t in item.turns(RATE)][:2] == ["Is it open?", "Yes, sure."]
