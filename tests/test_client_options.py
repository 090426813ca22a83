"""What a client is opened with: judged in words, and before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sarguard import client as client_module
from sarguard.client import SafeAudioLLM
from sarguard.client_options import ClientOptions, checked_options
from sarguard.errors import SarguardError
from sarguard.option_values import shown
from sarguard.policy.tiers import Tier
from sarguard.steering.bundle import SteeringBundle
from tests.odd_values import ODD
from tests.serving.fakes import FakeBackend

OPTIONS = sorted(ClientOptions.__optional_keys__)


@pytest.mark.parametrize("option", OPTIONS)
def test_any_value_opens_a_client_or_is_refused_in_words(
    option: str,
    tiny_bundle: SteeringBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = []
    for value in ODD:
        backend = FakeBackend(
            "Paris.",
            vectors_digest=tiny_bundle.card.vectors_digest,
            layers=tiny_bundle.card.layers,
        )
        try:
            SafeAudioLLM(backend, tiny_bundle, **{option: value}).close()
        except SarguardError as error:
            # A policy's, a tier's or a ledger's own error says what that is.
            if option not in str(error) and option not in ("policy", "tier", "audit"):
                bad.append((value, f"not named: {error}"))
        except Exception as error:
            bad.append((value, repr(error)))
    assert not bad, "\n".join(f"{shown(value)}: {what}" for value, what in bad)


@pytest.mark.parametrize("option", ["id_or_path", "bundle"])
def test_any_name_of_a_model_or_a_bundle_is_refused_in_words(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(*_: object, **__: object) -> None:
        raise SarguardError(f"{option} is taken")

    monkeypatch.setattr(client_module, "load_model", load_model)
    monkeypatch.setattr(client_module, "reference_path", load_model)
    bad = []
    for value in ODD:
        asked: dict[str, Any] = {"id_or_path": "reference", option: value}
        try:
            SafeAudioLLM.from_pretrained(**asked, progress=False)
        except SarguardError:
            continue
        except Exception as error:
            bad.append((value, repr(error)))
    assert not bad, "\n".join(f"{shown(value)}: {what}" for value, what in bad)


def test_what_is_plain_is_taken() -> None:
    found = checked_options(
        alpha="0.2",  # type: ignore[typeddict-item]
        tier="strict",
        max_batch="4",  # type: ignore[typeddict-item]
        audit=Path("audit.db"),
        observers=[],
    )
    assert found == {
        "alpha": 0.2,
        "tier": Tier.STRICT,
        "max_batch": 4,
        "audit": "audit.db",
        "observers": (),
    }


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"audit": "nowhere/audit.db"}, "no folder for the ledger"),
    "a folder": ({"audit": "."}, "is a folder"),
    "no policy": ({"policy": "nowhere.yaml"}, "nowhere.yaml"),
    "no tier": ({"tier": "strictest"}, "choose permissive, balanced"),
    "no strength": ({"alpha": 0.0}, "above 0"),
    "two rules": ({"alpha": "nan"}, "alpha is"),
    "no ledger": ({"policy": "healthcare"}, "answers nothing without a ledger"),
    "no place": ({"max_queue": 0}, "give 1 or more"),
    "a guess": ({"queue_full": "drop"}, "'wait' or 'raise'"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_option_costs_no_load_and_leaves_no_file(
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_model(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client_module, "load_model", load_model)
    monkeypatch.setattr(client_module, "reference_path", load_model)
    with pytest.raises(SarguardError, match=said):
        SafeAudioLLM.from_pretrained("reference", **options)
    assert os.listdir() == []
