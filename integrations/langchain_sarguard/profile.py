"""What LangChain may know of a guarded model before it asks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from langchain_core import language_models

if TYPE_CHECKING:
    from langchain_core.language_models import ModelProfile


def profile_of(model_name: str) -> ModelProfile:
    """Return a model's profile, in the keys that the installed langchain-core knows."""
    known = get_type_hints(language_models.ModelProfile)
    profile: dict[str, Any] = {
        "name": model_name,
        "open_weights": True,
        "text_inputs": True,
        "audio_inputs": True,
        "image_inputs": False,
        "video_inputs": False,
        "pdf_inputs": False,
        "text_outputs": True,
        "audio_outputs": False,
        "image_outputs": False,
        "tool_calling": False,
        "structured_output": find_spec("llguidance") is not None,
        "reasoning_output": False,
        "temperature": True,
    }
    found = {key: value for key, value in profile.items() if key in known}
    return cast("ModelProfile", found)
