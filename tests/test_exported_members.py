"""The public surface is small, sorted and importable."""

from __future__ import annotations

import sarguard


def test_names_are_few_sorted_and_real() -> None:
    assert len(sarguard.__all__) <= 15
    assert sarguard.__all__ == sorted(sarguard.__all__)
    for name in sarguard.__all__:
        assert getattr(sarguard, name).__name__ == name


def test_every_lazy_name_is_exported_and_no_other() -> None:
    assert sorted(sarguard._HOMES) == sarguard.__all__


def test_the_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert sarguard.__version__ == version("sarguard")
