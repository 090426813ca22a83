"""The contexts and attacks that `sarguard evaluate` is told of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sarguard.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    ConfigurationError,
    MissingDependencyError,
)

if TYPE_CHECKING:
    from sarguard.evaluation.data.contexts import Context

ALL = "all"
_ENDINGS = (".yaml", ".yml")


def read_contexts(given: Sequence[str]) -> list[Context]:
    """Return contexts by name, all that ship for `all`, and those of YAML files.

    Raises:
        ConfigurationError: There is no such context, or two have the same name.
        ArtifactError: A file cannot be read or holds something else.
    """
    from sarguard.evaluation.data.contexts import CONTEXTS, choose_contexts

    found: list[Context] = []
    for word in given:
        if word.endswith(_ENDINGS):
            found += _read_file(Path(word))
        else:
            found += choose_contexts(list(CONTEXTS) if word == ALL else [word])
    names = [context.name for context in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"two contexts are called {', '.join(twice)}: leave one out"
        )
    return found


def read_attacks(given: Sequence[str]) -> list[Context]:
    """Return attacks by name, all that can be made here for `all`.

    Raises:
        ConfigurationError: There is no such attack.
        MissingDependencyError: One that was named needs a synthesiser, and there is
            none.
    """
    from sarguard.evaluation.data.attacks import (
        ATTACKS,
        SPOKEN_ROLE_PLAY,
        choose_attacks,
    )

    names = list(ATTACKS) if ALL in given else list(given)
    if SPOKEN_ROLE_PLAY in names and not _can_speak(needed=ALL not in given):
        names.remove(SPOKEN_ROLE_PLAY)
    return choose_attacks(names)


def _can_speak(*, needed: bool) -> bool:
    from sarguard.cli.screen import remarks
    from sarguard.datasets.natural import check_natural_voices

    try:
        check_natural_voices()
    except MissingDependencyError as error:
        if needed:
            raise
        remarks().print(f"Spoken role play is left out: {error}", markup=False)
        return False
    return True


def _read_file(file: Path) -> list[Context]:
    from sarguard.evaluation.data.own_contexts import own_contexts
    from sarguard.policy.files import read_yaml

    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ArtifactNotFoundError(
            f"cannot read the contexts {file} ({error}): name a YAML file, or a "
            "context that ships"
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactFormatError(f"{file} is not UTF-8 text: save it so") from error
    return own_contexts(read_yaml(content, source=str(file)), source=file)
