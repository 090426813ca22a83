"""Keeping stdout for results: libraries say little, and on stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_SETTINGS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def quiet_libraries() -> None:
    """Silence transformers' chatter before it is imported, and log to stderr."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that lacks a character shows "?", instead of a failure.
            reconfigure(errors="replace")
    _log_to_stderr()


def quiet_transformers() -> None:
    """Hide the bars that transformers draws while it loads a model."""
    from transformers.utils import logging as chatter

    chatter.set_verbosity_error()  # type: ignore[no-untyped-call]
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]


def warn_only() -> None:
    """Log warnings only: what a command did, it says itself."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING)
    )


def _log_to_stderr() -> None:
    try:
        import structlog
    except ImportError:  # `sarguard doctor` says so
        return
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
