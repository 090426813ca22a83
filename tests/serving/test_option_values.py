"""Options as callers really give them: taken where plain, else one clear error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sarguard.client import SafeAudioLLM
from sarguard.errors import (
    AudioError,
    InvalidRequestError,
    PolicyFloorError,
    SarguardError,
)
from sarguard.option_values import as_count, as_name, as_number, as_text, shown
from sarguard.serving.request import GenerationOptions, GenerationRequest
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Outcome, Turn
from tests.odd_values import CUT, NAME, ODD
from tests.serving.fakes import FakeBackend


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((np.float32(0.5), 0.5), (np.float64(2), 2.0), (np.int64(3), 3.0)),
        *((1, 1.0), ("0.5", 0.5), (" 1e-3 ", 1e-3), (Fraction(1, 4), 0.25)),
        *((torch.tensor(0.5), 0.5), (np.array(2), 2.0), (10**400, math.inf)),
    ],
    ids=repr,
)
def test_numbers_are_taken(value: object, number: float) -> None:
    found = as_number("top_p", value)
    assert type(found) is float
    assert found == number


@pytest.mark.parametrize(
    ("value", "count"),
    [(np.int32(5), 5), (np.float64(2), 2), ("7", 7), (1.0, 1), (torch.tensor(4), 4)],
    ids=repr,
)
def test_whole_numbers_are_taken(value: object, count: int) -> None:
    found = as_count("seed", value)
    assert type(found) is int
    assert found == count


@pytest.mark.parametrize(
    "value",
    [
        *(True, None, "", "five", "1_000", "nan", b"5", [5], {}, object(), 1j, "0x5"),
        *(Decimal("NaN"), np.array([1, 2]), Turn(role="user", text="5")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("read", [as_number, as_count])
def test_what_is_no_number_is_an_error(
    value: object, read: Callable[[str, object], object]
) -> None:
    with pytest.raises(InvalidRequestError, match=r"^seed is .*: give a .*number$"):
        read("seed", value)


@pytest.mark.parametrize("value", [0.5, "0.5", math.nan, math.inf, 1e300])
def test_what_is_not_whole_is_no_count(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="whole number"):
        as_count("seed", value)


def test_names_and_texts() -> None:
    assert as_name("session", NAME) == str(NAME)
    assert as_name("tenant", 7) == "7"
    assert as_text("text", "a\0b\n") == "a\0b\n"
    for value in ("", "a\0b", "line\n", "x" * 257, True, 1.5, b"a", CUT, None):
        with pytest.raises(InvalidRequestError, match=r"^tenant (is|has|holds) "):
            as_name("tenant", value)
    for text in (CUT, b"a", None, 5):
        with pytest.raises(InvalidRequestError, match=r"^text (is|holds) "):
            as_text("text", text)


def test_an_error_shows_a_value_and_no_sound() -> None:
    assert shown("x" * 10_000) == f"'{'x' * 56}..."
    assert "1" not in shown(np.ones(16_000))
    assert shown(b"RIFF") == "of type bytes"


OPTIONS = sorted(GenerationOptions.__optional_keys__)
WAYS: dict[str, Callable[[SafeAudioLLM, dict[str, Any]], Any]] = {
    "generate": lambda client, asked: client.generate(**asked),
    "stream": lambda client, asked: list(client.stream(**asked))[-1].reply,
    "batch": lambda client, asked: client.generate_batch([asked])[0],
    "build": lambda client, asked: client.build_request(**asked),
}


@pytest.fixture
def client(tiny_bundle: SteeringBundle, tmp_path: Path) -> Iterator[SafeAudioLLM]:
    backend = FakeBackend(
        "Paris.",
        vectors_digest=tiny_bundle.card.vectors_digest,
        layers=tiny_bundle.card.layers,
    )
    with SafeAudioLLM(backend, tiny_bundle, audit=tmp_path / "audit.db") as client:
        yield client


@pytest.mark.parametrize("option", [*OPTIONS, "text", "audio"])
@pytest.mark.parametrize("way", WAYS)
def test_any_value_of_any_option_is_answered_or_refused_in_words(
    client: SafeAudioLLM, option: str, way: str
) -> None:
    bad = []
    for value in ODD:
        asked = {"text": "Hi.", "max_new_tokens": 4, option: value}
        try:
            found = WAYS[way](client, asked)
        except (InvalidRequestError, PolicyFloorError, AudioError) as error:
            if option not in str(error) and not isinstance(error, AudioError):
                bad.append((value, f"not named: {error}"))
        except Exception as error:
            bad.append((value, repr(error)))
        else:
            outcome = getattr(found, "outcome", Outcome.ANSWERED)
            if outcome is Outcome.ERROR_CLOSED:
                bad.append((value, found.guard.fault))
    assert not bad, "\n".join(f"{shown(value)}: {what}" for value, what in bad)


@given(
    asked=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(ODD) for name in OPTIONS}
    )
)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_combination_is_a_request_or_an_error_of_ours(
    asked: dict[str, Any],
) -> None:
    try:
        request = GenerationRequest.build(text="Hi.", **asked)
    except SarguardError:
        return
    assert type(request.max_new_tokens) is int
    assert type(request.sampling.temperature) is float
