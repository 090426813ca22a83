"""What a guarded request leaves behind as proof."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Receipt:
    """Count what the hooks did during one guard; filled in while it runs."""

    prompt_length: int
    alpha: tuple[float, ...]
    """Strength of each row."""
    layers: int
    steered: list[int] = field(default_factory=list)
    """Positions steered on each layer, the same for every row."""
    healthy: Tensor | None = None
    """Whether each row was finite on the last layer, on its device."""
    closed: bool = False
    """Whether the guard has ended."""

    def __post_init__(self) -> None:
        self.steered = [0] * self.layers
