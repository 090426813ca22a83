"""Log lines go where a program's own do, and never to standard output."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from sarguard.logs import get_logger
from tests.logs import capture_logs

QUIET = """
import sarguard.logs, {configured}
log = sarguard.logs.get_logger("sarguard.here")
log.info("not shown")
log.warning("100 % full", places=3)
print("protocol")
"""


def test_a_line_is_a_record_of_logging(caplog: pytest.LogCaptureFixture) -> None:
    log = get_logger("sarguard.place")
    with caplog.at_level(logging.INFO, logger="sarguard"):
        log.info("100 % %s full", places=3, what="a b")
    (record,) = caplog.records
    assert record.name == "sarguard.place"
    assert record.getMessage() == "100 % %s full places=3 what='a b'"
    facts: Any = record
    assert facts.sarguard == {"event": "100 % %s full", "places": 3, "what": "a b"}


def test_a_level_that_is_off_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Unread:
        def __repr__(self) -> str:
            raise AssertionError("was read")

    with caplog.at_level(logging.ERROR, logger="sarguard"):
        get_logger("sarguard.place").warning("x", value=Unread())
    assert caplog.records == []


def test_what_is_bound_to_the_context_is_in_the_line() -> None:
    with capture_logs() as lines, bound_contextvars(audit_id="req_1"):
        get_logger("sarguard.place").error("failed")
    assert lines == [{"event": "failed", "audit_id": "req_1", "log_level": "error"}]


def test_an_exception_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        get_logger("sarguard.place").exception("failed")
    assert caplog.records[0].exc_info is not None
    assert "ValueError: why" in caplog.text


@pytest.mark.parametrize(
    "configured",
    [
        "sys",
        "structlog; structlog.configure(processors=[lambda *_: print('taken')])",
        "logging; logging.basicConfig()",
    ],
    ids=["nothing", "structlog", "logging"],
)
def test_a_program_whose_output_is_its_protocol_stays_clean(configured: str) -> None:
    code = QUIET.format(configured=configured)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "protocol\n"
    assert "100 % full places=3" in done.stderr
    assert "not shown" not in done.stderr
