from __future__ import annotations

import pytest

from tests.reference.training.students import Student, student


@pytest.fixture(scope="session")
def tiny_student() -> Student:
    """Return a tiny student that no test may change."""
    return student()
