"""Read a clip that is already an array of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sarguard.audio.limits import AudioLimits, check_rate
from sarguard.audio.samples import FloatArray, mix_down
from sarguard.errors import AudioEmptyError, AudioFormatError

_NAME = "The array"


def read_array(clip: tuple[Any, ...], *, limits: AudioLimits) -> tuple[FloatArray, int]:
    """Mix an (array, rate) pair down to mono float32 samples and its rate.

    Raises:
        AudioError: if the pair, its rate, shape, dtype, length or values are
            unusable.
    """
    array, rate = _unpack(clip)
    frames_first = _frames_first(array, max_channels=limits.max_channels)
    limits.check_channels(frames_first.shape[1], name=_NAME)
    limits.check_length(len(frames_first), rate, name=_NAME)
    return mix_down(frames_first, name=_NAME), rate


def _unpack(clip: tuple[Any, ...]) -> tuple[npt.NDArray[Any], int]:
    """Split a clip into its array and its rate, and refuse anything else."""
    if len(clip) != 2:
        raise AudioFormatError(
            f"A tuple of {len(clip)} items is no clip: pass (array, rate)."
        )
    array, rate = clip
    if _is_tensor(array):
        # numpy has no bfloat16, and half a float is no loss to a whole one.
        halves = array.is_floating_point() and array.element_size() == 2
        array = (array.float() if halves else array).detach().cpu().numpy()
    if isinstance(rate, np.ndarray) and not isinstance(array, np.ndarray):
        raise AudioFormatError(
            f"The tuple holds ({type(array).__name__}, array): swap it, a clip is "
            "(array, rate)."
        )
    if not isinstance(array, np.ndarray):
        raise AudioFormatError(
            f"The tuple holds a {type(array).__name__} where its samples should be: "
            "pass (numpy array or torch tensor, rate)."
        )
    return array, check_rate(rate, name=_NAME)


def _is_tensor(array: object) -> bool:
    # Told by its looks: whoever has a torch tensor has imported torch already.
    kind = type(array)
    return kind.__module__ == "torch" and kind.__name__ == "Tensor"


def _frames_first(array: npt.NDArray[Any], *, max_channels: int) -> npt.NDArray[Any]:
    """View an array as (frames, channels).

    The channel axis is the one of at most `max_channels` while the other is longer
    than that; a shape for which this names no axis, or both, is refused.
    """
    if array.ndim == 1:
        return array[:, np.newaxis]
    if array.ndim != 2:
        raise AudioFormatError(
            f"{_NAME} has shape {array.shape}: give (samples,), (channels, samples) "
            "or (samples, channels)."
        )
    if max(array.shape) == 0:
        raise AudioEmptyError(f"{_NAME} is empty: found shape {array.shape}.")
    narrow = [axis for axis in (0, 1) if array.shape[axis] <= max_channels]
    if not narrow:
        raise AudioFormatError(
            f"{_NAME} has shape {array.shape}: neither axis can be the channels, "
            f"allowed 1 to {max_channels}. Pass the channel that holds the speech."
        )
    if len(narrow) == 2:
        raise AudioFormatError(
            f"{_NAME} has shape {array.shape}: either axis could be the channels "
            f"(up to {max_channels}). Pass one channel of shape (samples,)."
        )
    return array.T if narrow == [0] else array
