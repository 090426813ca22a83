"""What clients of these tests are opened over."""

from tests.guard.conftest import calm_bundle, loaded

__all__ = ["calm_bundle", "loaded"]
