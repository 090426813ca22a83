"""A sequence classifier of transformers as a text guard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sarguard.errors import ConfigurationError
from sarguard.guard.checks import CheckResult, InputCheck
from sarguard.opinions.loading import GuardModel, load_guard
from sarguard.opinions.text_judges import TextMessage, flag_from, text_guard

if TYPE_CHECKING:
    from sarguard.models.untyped import PretrainedModel, Tokenizer

_DEFAULT_WINDOW = 512
# Words at the border of two windows are read with what stands around them.
_OVERLAP = 4


def classifier_guard(
    model: str | os.PathLike[str] | PretrainedModel,
    *,
    harmful: Sequence[str],
    tokenizer: Tokenizer | None = None,
    threshold: float = 0.5,
    name: str = "classifier",
    version: str | None = None,
    timeout_s: float = 10.0,
    turns: int = 1,
    device: str | None = None,
    dtype: Any = None,  # noqa: ANN401
    revision: str | None = None,
) -> InputCheck:
    """Return an input check by a sequence classifier of transformers.

    The score is the probability of the harmful labels: their sum, or the largest where
    labels do not exclude each other. A text longer than the model reads is read in
    windows that overlap, and the highest score counts.

    Args:
        model: A directory, a model id, or a model in memory.
        harmful: Labels that count as harmful, as the model's config names them.
        tokenizer: Needed beside a model in memory.
        threshold: Score from which it flags.
        name: Name of the check.
        version: What stands in records; the default is the commit, or "1".
        timeout_s: Seconds that one look may take.
        turns: Newest turns that are read, one text.
        device: Where to put the model.
        dtype: Of the weights that are read.
        revision: Branch, tag or commit on a hub.

    Raises:
        ConfigurationError: A label is unknown, or there is no tokenizer.
    """
    guard = load_guard(
        model,
        tokenizer,
        "AutoModelForSequenceClassification",
        device=device,
        dtype=dtype,
        revision=revision,
        version=version,
    )
    labels = {int(i): str(label) for i, label in guard.model.config.id2label.items()}
    unknown = sorted(set(harmful) - set(labels.values()))
    if unknown or not harmful:
        raise ConfigurationError(
            f"harmful labels {', '.join(unknown) or 'none'}: the model's are "
            f"{', '.join(labels.values())}"
        )
    wanted = [i for i, label in labels.items() if label in harmful]

    def judge(messages: tuple[TextMessage, ...]) -> CheckResult:
        text = "\n".join(message.text for message in messages)
        score, index = _score(guard, text, wanted)
        return flag_from(score, threshold, labels[index])

    return text_guard(
        name, judge, version=guard.version, timeout_s=timeout_s, turns=turns
    )


def _score(guard: GuardModel, text: str, wanted: list[int]) -> tuple[float, int]:
    """Return the score of a text, and the harmful label that is likeliest."""
    import torch

    several = guard.model.config.problem_type == "multi_label_classification"
    best = (-1.0, wanted[0])
    for inputs in _windows(guard, text):
        with torch.inference_mode():
            logits = guard.model(**inputs).logits[0].float()
        if len(logits) == 1:
            likely = torch.sigmoid(logits)
        else:
            likely = torch.sigmoid(logits) if several else torch.softmax(logits, 0)
        of_harm = likely[wanted]
        # NaN compares with nothing: it has to come out, to fail where it is checked.
        score = float(of_harm.max() if several else of_harm.sum())
        if not score <= best[0]:
            best = (score, wanted[int(of_harm.argmax())])
        if score != score:
            break
    return best


def _windows(guard: GuardModel, text: str) -> list[dict[str, Any]]:
    """Return the model's inputs for every window of a text."""
    length = guard.max_tokens or _DEFAULT_WINDOW
    encoded = guard.tokenizer(
        text,
        truncation=True,
        max_length=length,
        stride=min(length // _OVERLAP, 64),
        return_overflowing_tokens=True,
    )
    names = [n for n in guard.tokenizer.model_input_names if n in encoded]
    rows = encoded["input_ids"]
    import torch

    return [
        {
            name: torch.tensor([encoded[name][row]], device=guard.device)
            for name in names
        }
        for row in range(len(rows))
    ]
