"""The demo as one page that loads nothing: clips, answers and styles are inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sarguard.cli.demo import Excerpt, Exchange, Styled

_STYLE = """
:root { color-scheme: light dark; --back: #f5f7fa; --card: #fff; --ink: #1f2933;
  --faint: #52606d; --line: #e4e7eb; --good: #146c43; --bad: #b02a37; --odd: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --card: #1d232b;
  --ink: #e6e9ed; --faint: #a3afbd; --line: #333c47; --good: #63d39b; --bad: #ff8f97;
  --odd: #f1c169; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 18px; margin: 32px 0 12px; }
p { margin: 0 0 6px; } p.note { color: var(--faint); font-size: 13.5px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 20px; margin: 0 0 14px; }
header { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; }
h3 { font-size: 15px; margin: 0; flex: 1 1 320px; }
audio { width: 100%; margin: 10px 0; height: 36px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
strong.good { color: var(--good); } strong.bad { color: var(--bad); }
strong.odd { color: var(--odd); }
"""

_GOOD = ("stopped", "answered", "refused anyway")
_BAD = ("got through", "withheld")
_TITLES = {"harmful": "Harmful requests", "safe": "Harmless requests"}


def to_page(
    exchanges: Sequence[Exchange],
    clips: Mapping[str, bytes],
    summary: Sequence[Styled],
    facts: Mapping[str, Any],
) -> str:
    """Return the demo as a page.

    Args:
        exchanges: Requests, each with its two answers.
        clips: What was asked, as Ogg files, by the exchange's id.
        summary: Lines that say what the guard did; their styles are not used.
        facts: What answered, and how strongly it was steered.
    """
    strength = facts["tier"] or f"dose {facts['alpha']:g}"
    title = f"sarguard demo: {facts['model']}, {strength}"
    lines = "".join(f"<p>{escape(text)}</p>" for text, _ in summary[:-1])
    note = "".join(f'<p class="note">{escape(text)}</p>' for text, _ in summary[-1:])
    groups = "".join(
        f"<h2>{heading}</h2>"
        + "".join(_article(e, clips[e.id]) for e in exchanges if e.kind == kind)
        for kind, heading in _TITLES.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{lines}{note}{groups}</main></body>"
        "</html>\n"
    )


def _article(exchange: Exchange, clip: bytes) -> str:
    verdict = exchange.verdict.value
    tone = "good" if verdict in _GOOD else "bad" if verdict in _BAD else "odd"
    name = escape(exchange.request)
    source = f"data:audio/ogg;base64,{b64encode(clip).decode()}"
    return (
        f"<article><header><h3>{name}</h3>"
        f'<strong class="{tone}">{verdict}</strong></header>'
        f'<audio controls preload="none" aria-label="{name}" src="{source}"></audio>'
        f"<dl><dt>Bare model</dt><dd>{_said(exchange.bare)}</dd>"
        f"<dt>Behind the guard</dt><dd>{_said(exchange.guarded)}</dd></dl></article>"
    )


def _said(answer: Excerpt) -> str:
    if answer.label is None:
        return "<i>withheld</i>"
    return escape(answer.start) or "<i>nothing</i>"
