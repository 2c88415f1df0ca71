"""A trace with its planning and its high-entropy tokens marked (Fig. 6 and 13), as self-contained HTML.

Planning tokens are bold on a tint, high-entropy tokens are underlined with dots, and tokens that are both
carry both marks: readable in light and dark, in print, and without telling colours apart. Where a page's
style is dropped, as code hosts do, bold and underline stay. All text comes from a model and is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from html import escape
from itertools import groupby
from pathlib import Path

from hicra.files import write_atomic

HIGH_ENTROPY = 0.3  # share of the trace's tokens that count as high-entropy (paper, Fig. 12 and 13)
# (planning, high-entropy) -> what stands before and after such tokens
MARKS = {
    (False, False): ("", ""),
    (True, False): ('<b class="p">', "</b>"),
    (False, True): ('<u class="h">', "</u>"),
    (True, True): ('<b class="p"><u class="h">', "</u></b>"),
}
STYLE = """
.hicra { color-scheme: light dark; font: 15px/1.7 system-ui, sans-serif; max-width: 46em; margin: 1em auto;
  padding: 0 1em; color: #1b1b1b; background: #fff; /* for browsers from before 2024 */
  color: light-dark(#1b1b1b, #e8e8e8); background: light-dark(#ffffff, #161616); }
.hicra h1 { font-size: 17px; line-height: 1.4; }
.hicra .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.hicra .prompt { color: light-dark(#5b5b5b, #a8a8a8); }
.hicra .p { font-weight: 700; border-radius: 3px;
  background: #ffe2a8; background: light-dark(#ffe2a8, #5c4300); }
.hicra .h { text-decoration: underline dotted 2px; text-underline-offset: 4px;
  text-decoration-color: light-dark(#0b5fa5, #7cc4ff); }
.hicra .legend { font-size: 13px; padding-bottom: .4em; border-bottom: 1px solid light-dark(#ccc, #444); }
"""


def trace_html(
    tokens: Sequence[str],
    planning: Sequence[bool],
    entropies: Sequence[float],
    *,
    title: str = "",
    prompt: str = "",
) -> str:
    """One completion as an HTML fragment with its own style: all three sequences hold one entry a token.

    The ceil(HIGH_ENTROPY * T) tokens of highest entropy (nats) count as high-entropy. Raises ValueError for
    sequences of different lengths.
    """
    if not len(tokens) == len(planning) == len(entropies):
        sizes = f"{len(tokens)} tokens, {len(planning)} planning marks, {len(entropies)} entropies"
        raise ValueError(f"{sizes}: give one of each for every token")
    high = _highest(entropies)
    marked = zip(tokens, zip(map(bool, planning), high, strict=True), strict=True)
    pieces = []
    for kind, run in groupby(marked, key=lambda pair: pair[1]):
        text = escape("".join(token for token, _ in run))
        pieces.append(text.join(MARKS[kind]))
    both = sum(bool(p) and h for p, h in zip(planning, high, strict=True))
    legend = (
        f"{'planning'.join(MARKS[True, False])} {sum(map(bool, planning))}, "
        f"{'high-entropy'.join(MARKS[False, True])} {sum(high)}, "
        f"{'both'.join(MARKS[True, True])} {both}, of {len(tokens)} tokens"
    )
    head = f"<strong>{escape(title)}</strong><br>" if title else ""
    return (
        f'<style>{STYLE}</style><div class="hicra"><p class="legend">{head}{legend}</p>'
        f'<p class="text"><span class="prompt">{escape(prompt)}</span>{"".join(pieces)}</p></div>'
    )


def rollout_html(rollout: dict) -> str:
    """A row of a run record's rollouts.jsonl as `trace_html`, with its step and what became of it."""
    outcome = f"{rollout['reason']} ({rollout['error']} error)" if rollout["error"] else rollout["reason"]
    return trace_html(
        rollout["tokens"],
        rollout["planning"],
        rollout["entropy"],
        title=f"step {rollout['step']}: {outcome}",
        prompt=rollout["prompt"],
    )


def save_html(fragments: Sequence[str], path: Path | str, *, title: str) -> None:
    """Fragments under a heading, as one page that needs nothing else."""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><body>"
        f'<div class="hicra"><h1>{escape(title)}</h1></div>{"".join(fragments)}</body></html>\n'
    )
    write_atomic(Path(path), page)


def _highest(entropies: Sequence[float]) -> list[bool]:
    """The ceil(HIGH_ENTROPY * T) largest of T; of equal ones the earlier."""
    count = math.ceil(Fraction(str(HIGH_ENTROPY)) * len(entropies))
    order = sorted(range(len(entropies)), key=lambda i: -entropies[i])
    chosen = set(order[:count])
    return [i in chosen for i in range(len(entropies))]
