"""A calibration that was stopped goes on from what it had read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sarguard.calibration.build import calibrate
from sarguard.calibration.journal import Journal, discard, name_of
from sarguard.calibration.recipe import Recipe
from sarguard.errors import ConfigurationError
from sarguard.models.loading import LoadedModel
from sarguard.steering.bundle import SteeringBundle
from sarguard.types import Turn
from tests import tiny

PAIRS = tiny.pairs(6)
RECIPE = Recipe(rank=2)
CLIP = tiny.clip(0.4)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny.build()


def stop_at(done: int) -> Callable[[int, int], None]:
    def report(now: int, _total: int) -> None:
        if now >= done:
            raise StoppedError

    return report


def run(
    loaded: LoadedModel,
    journal: Path | None,
    *,
    stop: int | None = None,
    recipe: Recipe = RECIPE,
) -> SteeringBundle:
    return calibrate(
        loaded,
        PAIRS,
        recipe,
        needs_refusal=False,
        batch_size=2,
        progress=None if stop is None else stop_at(stop),
        journal=journal,
    )


def passes(loaded: LoadedModel, what: Callable[[], object]) -> int:
    seen: list[int] = []
    handle = loaded.decoder.layers[0].register_forward_hook(lambda *_: seen.append(1))
    what()
    handle.remove()
    return len(seen)


def same(one: SteeringBundle, other: SteeringBundle) -> None:
    torch.testing.assert_close(one.vectors.ablated, other.vectors.ablated)
    left, right = one.card.model_dump(), other.card.model_dump()
    for name in ("calibration_digest", "pairs", "rank", "weights_digest"):
        assert left[name] == right[name]
    for name, tier in one.card.tiers.items():
        assert tier.floor == pytest.approx(other.card.tiers[name].floor)
        assert tier.block == pytest.approx(other.card.tiers[name].block, abs=1e-3)


@pytest.mark.parametrize("stop", [4, 20, 60])
def test_a_stopped_calibration_goes_on(
    loaded: LoadedModel, tmp_path: Path, stop: int
) -> None:
    journal = tmp_path / ".bundle.reading"
    whole: list[SteeringBundle] = []
    all_of_it = passes(loaded, lambda: whole.append(run(loaded, None)))
    with pytest.raises(StoppedError):
        run(loaded, journal, stop=stop)
    rest: list[SteeringBundle] = []
    left = passes(loaded, lambda: rest.append(run(loaded, journal)))
    assert left < all_of_it - stop // 4
    same(whole[0], rest[0])
    # Nothing is left to read, and the result is the same once more.
    assert passes(loaded, lambda: same(rest[0], run(loaded, journal))) == 0


def test_another_calibration_begins_anew(loaded: LoadedModel, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(loaded, journal)
    other = Recipe(rank=2, refusal="I won't say.")
    changed = passes(loaded, lambda: run(loaded, journal, recipe=other))
    assert changed > 10
    with torch.no_grad():
        loaded.decoder.layers[0].mlp.up_proj.weight.add_(0.01)
    assert passes(loaded, lambda: run(loaded, journal, recipe=other)) == changed


def test_a_file_that_was_cut_off_is_read_again(tmp_path: Path) -> None:
    made: list[int] = []

    def read() -> dict[str, Tensor]:
        made.append(1)
        return {"a": torch.arange(6.0).reshape(2, 3).T}

    journal = Journal(tmp_path / "j", {"of": "this"})
    first = journal.once("clips-1", read)
    assert torch.equal(journal.once("clips-1", read)["a"], first["a"])
    path = tmp_path / "j" / "clips-1.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    journal.close()
    again = Journal(tmp_path / "j", {"of": "this"})
    assert torch.equal(again.once("clips-1", read)["a"], first["a"])
    assert len(made) == 2
    assert not [*(tmp_path / "j").glob("*.partial")]


def test_only_a_journal_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    for step in (discard, Journal):
        with pytest.raises(ConfigurationError, match="move it away"):
            step(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    Journal(tmp_path / "ours", {}).close()
    (tmp_path / "ours" / "thesis.txt").write_text("words")
    discard(tmp_path / "ours")
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["thesis.txt"]
    Journal(tmp_path / "ours2", {}).close()
    discard(tmp_path / "ours2")
    discard(tmp_path / "ours2")
    assert not (tmp_path / "ours2").exists()


def test_one_calibration_at_a_time(tmp_path: Path) -> None:
    read: dict[str, Tensor] = {"a": torch.zeros(2)}
    with Journal(tmp_path / "j", {"of": "this"}) as journal:
        journal.once("clips-1", lambda: read)
        with pytest.raises(ConfigurationError, match="another calibration"):
            Journal(tmp_path / "j", {"of": "that"})
        assert torch.equal(journal.once("clips-1", lambda: {})["a"], read["a"])
    with Journal(tmp_path / "j", {"of": "that"}) as other:
        assert other.once("clips-1", lambda: {"b": read["a"]}).keys() == {"b"}


def test_names_tell_what_is_read_apart() -> None:
    other = CLIP.copy()
    other[7] += 1e-3
    user = Turn(role="user", text="Hi.", audio=(CLIP,))
    asked = [
        ("Hi.",),
        ("Hi", "."),
        (["Hi", "."],),
        ([["Hi"], ["."]],),
        (CLIP,),
        ([CLIP],),
        ([CLIP, CLIP],),
        (other,),
        (CLIP[:-1],),
        (user,),
        (Turn(role="user", text="Hi."),),
        (Turn(role="assistant", text="Hi."),),
        (Turn(role="user", text="Hi.", audio=(other,)),),
    ]
    names = [name_of("clips", *what) for what in asked]
    assert len({*names}) == len(names)
    assert names == [name_of("clips", *what) for what in asked]
    assert name_of("texts", "Hi.") != names[0]
    strided = np.repeat(CLIP, 2)[::2]
    assert name_of("clips", strided) == name_of("clips", CLIP)
