from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sarguard.errors import UnsupportedModelError
from sarguard.models import loading
from sarguard.models.downloads import is_transient, retry_download
from tests import tiny


class ConnectError(Exception):
    """Look like an HTTP client's error, which is told by its name."""


class OfflineModeIsEnabled(ConnectionError):
    """Look like a hub client's answer where no network is wanted."""


class StatusError(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


def caused_by(cause: Exception) -> Exception:
    error = OSError("the file cannot be fetched")
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that were asked for, none of which is made."""
    asked: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", asked.append)
    return asked


class Flaky:
    """Fail with each of some errors, then return."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "weights"


def test_a_download_that_broke_off_is_tried_again(pauses: list[float]) -> None:
    load = Flaky(ConnectionResetError("reset"), caused_by(ConnectError("no route")))
    assert retry_download(load) == "weights"
    assert load.calls == 3
    assert len(pauses) == 2
    assert all(0 <= pause <= 5 for pause in pauses)


def test_the_third_failure_is_the_last(pauses: list[float]) -> None:
    load = Flaky(*[TimeoutError(f"{n}") for n in range(9)])
    with pytest.raises(TimeoutError, match="2"):
        retry_download(load)
    assert load.calls == 3


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedModelError("a text-only model"),
        FileNotFoundError("config.json"),
        caused_by(StatusError(404)),
        caused_by(OfflineModeIsEnabled("no network wanted")),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_will_not_pass_is_tried_once(
    error: Exception, pauses: list[float]
) -> None:
    load = Flaky(error)
    with pytest.raises(type(error)):
        retry_download(load)
    assert (load.calls, pauses) == (1, [])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_may_answer_later(status: int) -> None:
    assert is_transient(caused_by(StatusError(status)))


def test_an_error_that_causes_itself_is_looked_at_once() -> None:
    error = OSError("round")
    error.__context__ = ValueError("and round")
    error.__context__.__context__ = error
    assert not is_transient(error)


def test_a_checkpoint_is_read_though_the_first_download_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    tiny.shared().model.config.save_pretrained(tmp_path)
    breaks = Flaky(ConnectionResetError("reset"))

    class Loader:
        """Break off once, then load as the library does."""

        @staticmethod
        def from_pretrained(*given: object, **options: object) -> object:
            import transformers

            breaks()
            return transformers.AutoConfig.from_pretrained(*given, **options)

    found = loading._open(Loader, str(tmp_path), None)
    assert found.model_type == "qwen2_audio"
    assert (breaks.calls, len(pauses)) == (2, 1)
