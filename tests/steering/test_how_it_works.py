"""Hold the page on how it works to what the code does."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"`(sarguard/\w+/)`", PAGE)
    assert named
    assert all((ROOT / name).is_dir() for name in named)
