"""Drawing in SVG: axes, and what stands on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

INK = "#1f2933"
FAINT = "#7b8794"
GRID = "#e4e7eb"
FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Where a chart's values fall on its canvas."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 640
    height: int = 420
    left: int = 60
    right: int = 20
    top: int = 16
    bottom: int = 48

    def x(self, value: float) -> float:
        """Return a value's place from the left."""
        low, high = self.x_range
        span = self.width - self.left - self.right
        return round(self.left + span * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        """Return a value's place from the top."""
        low, high = self.y_range
        span = self.height - self.top - self.bottom
        return round(self.top + span * (high - value) / (high - low), 1)

    def frame(
        self,
        *,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_title: str,
        y_title: str,
    ) -> list[str]:
        """Return grid lines, tick labels and titles."""
        bottom, middle = self.height - self.bottom, (self.height - self.bottom) / 2
        parts = []
        for value, label in x_ticks:
            parts.append(line(self.x(value), self.top, self.x(value), bottom, GRID))
            parts.append(text(self.x(value), bottom + 16, label, anchor="middle"))
        for value, label in y_ticks:
            edge = self.width - self.right
            parts.append(line(self.left, self.y(value), edge, self.y(value), GRID))
            parts.append(text(self.left - 8, self.y(value) + 4, label, anchor="end"))
        center = (self.left + self.width - self.right) / 2
        parts.append(text(center, self.height - 8, x_title, anchor="middle", fill=INK))
        turned = f'transform="rotate(-90 14 {middle:.1f})"'
        parts.append(text(14, middle, y_title, anchor="middle", fill=INK, more=turned))
        return parts

    def draw(self, parts: Iterable[str], *, label: str) -> str:
        """Return the chart."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(label)}" font-family="{FONT}" '
            'xmlns="http://www.w3.org/2000/svg">'
            f"{''.join(parts)}</svg>"
        )


def line(
    x0: float, y0: float, x1: float, y1: float, stroke: str, *, more: str = ""
) -> str:
    """Return a straight line."""
    return f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="{stroke}" {more}/>'


def path(points: Sequence[tuple[float, float]], stroke: str, *, more: str = "") -> str:
    """Return a line through points."""
    joined = " ".join(f"{x},{y}" for x, y in points)
    return (
        f'<polyline points="{joined}" fill="none" stroke="{stroke}" '
        f'stroke-width="2" stroke-linejoin="round" {more}/>'
    )


def dot(x: float, y: float, fill: str, *, title: str = "", radius: float = 5) -> str:
    """Return a dot that says more when it is pointed at."""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="#fff" '
        f'stroke-width="1.5">{hint}</circle>'
    )


def bar(
    x: float, y: float, width: float, height: float, fill: str, *, title: str = ""
) -> str:
    """Return a filled rectangle."""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
        f'height="{max(height, 0):.1f}" fill="{fill}">{hint}</rect>'
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    fill: str = FAINT,
    more: str = "",
) -> str:
    """Return a line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" '
        f'font-size="12" {more}>{escape(content)}</text>'
    )
