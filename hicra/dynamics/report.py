"""A measurement as a figure, and as one HTML page that needs nothing else: no network, light and dark.

All text of a page comes from models and files and is escaped; its script only hides and shows what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from io import StringIO
from itertools import cycle
from typing import Any

import pandas as pd

from hicra.dynamics.measure import Measurement
from hicra.dynamics.sample import QUANTITIES
from hicra.errors import MissingExtraError
from hicra.lexicon.lexicon import Lexicon

# Panels after the paper's Fig. 2 and 4: title, unit, and the quantities whose lines it shows.
PANELS = (
    (
        "Strategic diversity",
        ("semantic_entropy", "semantic_entropy_matched", "semantic_entropy_length_matched"),
    ),
    ("Planning", ("planning_share",)),
    ("Accuracy", ("accuracy", "pass_at_8")),
    ("Reward", ("reward",)),
    ("Length", ("length",)),
    ("Perplexity by class", ("perplexity_planning", "perplexity_execution")),
    ("Token entropy by class", ("entropy_planning", "entropy_execution")),
)
COLORS = (
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#949494",
)  # seaborn's colour-blind
DASHES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (6, 2, 1, 2)))
INK = "#123456"  # a colour of no line, which the page replaces by its own text colour
SHOWN = 20  # grams a table
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.6 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
  color: light-dark(#1b1b1b, #e8e8e8); background: light-dark(#ffffff, #161616); }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 2em; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15em .7em; border-bottom: 1px solid light-dark(#ddd, #3a3a3a); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.scroll { overflow-x: auto; } .note { color: light-dark(#5b5b5b, #a8a8a8); font-size: 13px; }
article { border-top: 1px solid light-dark(#ccc, #444); } article[hidden] { display: none; }
article p { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24em; overflow-y: auto; }
mark { font-weight: 700; color: inherit; background: light-dark(#ffe2a8, #5c4300); border-radius: 3px; }
form { display: flex; flex-wrap: wrap; gap: .5em 1em; } input, select { font: inherit; }
"""
SCRIPT = """
const form = document.querySelector("form"), traces = [...document.querySelectorAll("article")];
const show = () => {
  const {search, run, step, right} = Object.fromEntries(new FormData(form));
  let n = 0;
  for (const t of traces) {
    t.hidden = !((!run || t.dataset.run === run) && (!step || t.dataset.step === step)
      && (!right || t.dataset.right === right) && t.textContent.toLowerCase().includes(search.toLowerCase()));
    n += !t.hidden;
  }
  document.querySelector("output").textContent = n + " of " + traces.length;
};
form.addEventListener("input", show); form.addEventListener("submit", e => e.preventDefault()); show();
"""


def figure(found: Measurement):
    """Quantities against step, bands at 95 % over problems: a matplotlib Figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a figure", "matplotlib", "measure") from error
    there = set(found.steps["quantity"])
    panels = [(t, [n for n in names if n in there]) for t, names in PANELS if set(names) & there]
    rows = -(-len(panels) // 2)
    drawn = Figure(figsize=(9, 2.9 * rows), layout="constrained")
    axes = drawn.subplots(rows, 2, squeeze=False).ravel()
    for ax, (title, names) in zip(axes, panels, strict=False):
        _panel(ax, found.steps, title, names)
    for ax in axes[len(panels) :]:
        ax.remove()
    return drawn


def _panel(ax, steps: pd.DataFrame, title: str, names: list[str]) -> None:
    runs = list(dict.fromkeys(steps["run"]))
    for name, dashes in zip(names, cycle(DASHES)):
        for i, run in enumerate(runs):
            line = steps[(steps["run"] == run) & (steps["quantity"] == name)]
            color = COLORS[(i if len(runs) > 1 else names.index(name)) % len(COLORS)]
            said = name.replace("_", " ")
            label = said if len(runs) == 1 else f"{run}: {said}" if len(names) > 1 else run
            label = label.replace("$", r"\$").removeprefix("_")
            marker = "o" if len(line) < 9 else None
            ax.plot(
                line["step"], line["value"], color=color, ls=dashes, lw=1.4, marker=marker, ms=3, label=label
            )
            ax.fill_between(line["step"], line["low"], line["high"], color=color, alpha=0.15, lw=0)
    ax.set(title=title, xlabel="training step (updates)", ylabel=QUANTITIES[names[0]][0])
    ax.legend(fontsize=7) if len(runs) * len(names) > 1 else None
    ax.grid(lw=0.4, alpha=0.5)


def report_html(found: Measurement) -> str:
    """The page: figure, changes, rising and falling grams, grams and success, marked traces to browse."""
    runs = found.steps["run"].nunique()
    name = escape(found.lexicon.name)
    parts = [
        f"<h1>Strategic dynamics of {runs} run{'s' * (runs > 1)}</h1>",
        f"<p>Lexicon {name} ({len(found.lexicon)} grams, <code>{found.lexicon.sha256[:12]}</code>). "
        "Bands and brackets: 95 % over problems.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in found.notes),
        _svg(found),
        "<h2>Before and after</h2>",
        _table(found.changes, found.changes.columns),
        "<h2>Grams that rose and fell</h2>",
        '<p class="note">Occurrences a thousand words; q: p corrected for the number of grams.</p>',
        *_best(found.grams, "change"),
        "<h2>Grams and success</h2>",
        '<p class="note">Share of right completions with the gram and without, of one problem and step.</p>',
        *_best(found.success, "difference"),
        "<h2>Traces</h2>",
        _form(found),
        *(_trace(trace, found.lexicon) for trace in found.traces),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">"
        f"<title>Strategic dynamics</title><style>{STYLE}</style>"
        f"<body>{''.join(parts)}<script>{SCRIPT}</script>"
        "</body></html>\n"
    )


def _svg(found: Measurement) -> str:
    """The figure in the page's own colours."""
    import matplotlib as mpl

    own = {"text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"}
    style: dict[Any, Any] = dict.fromkeys(own, INK) | {
        "svg.fonttype": "none",
        "svg.hashsalt": "hicra",
        "axes.facecolor": "none",
    }
    stream = StringIO()
    with mpl.rc_context(style | {"legend.framealpha": 0, "font.family": "DejaVu Sans"}):
        figure(found).savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _best(table: pd.DataFrame, name: str) -> Iterator[str]:
    """The surest rows that are up and down, of each run; only those that hold after correction are bold."""
    for run, part in table.groupby("run", sort=False):
        kept = pd.concat([part[part[name] > 0].head(SHOWN), part[part[name] < 0].head(SHOWN)])
        held = (part["q"] < 0.05).sum()
        yield f"<p>{escape(str(run))}: {held} of {len(part)} tested grams with q below 0.05.</p>"
        yield _table(kept, kept.columns[1:])


def _table(table: pd.DataFrame, columns) -> str:
    if table.empty:
        return '<p class="note">Nothing to show.</p>'
    head = "".join(f"<th>{escape(str(c)).replace('_', ' ')}</th>" for c in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_cell(row[c])}</td>' for c in columns)}</tr>" for _, row in table.iterrows()
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return escape(str(value))


def _form(found: Measurement) -> str:
    runs, steps = ({getattr(t, name) for t in found.traces} for name in ("run", "step"))
    return (
        '<form><label>Search <input name="search" type="search"></label>'
        f"{_select('run', sorted(runs))}{_select('step', sorted(steps))}"
        f"{_select('right', ['right', 'wrong'])}<output></output></form>"
    )


def _select(name: str, values: list) -> str:
    options = "".join(f'<option value="{escape(str(v))}">{escape(str(v))}</option>' for v in values)
    label = {"right": "Outcome"}.get(name, name.capitalize())
    return f'<label>{label} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _trace(trace, lexicon: Lexicon) -> str:
    right = {True: "right", False: "wrong", None: ""}[trace.correct]
    told = f'data-run="{escape(trace.run)}" data-step="{trace.step}" data-right="{right}"'
    head = ", ".join(filter(None, (escape(trace.run), f"step {trace.step}", right)))
    return f"<article {told}><strong>{head}</strong><p>{marked_html(trace.text, lexicon)}</p></article>"


def marked_html(text: str, lexicon: Lexicon) -> str:
    """Text as HTML, with the occurrences of grams marked; overlapping ones as one."""
    pieces, done = [], 0
    for start, end in _spans(text, lexicon):
        pieces += [escape(text[done:start]), f"<mark>{escape(text[start:end])}</mark>"]
        done = end
    whole = "".join([*pieces, escape(text[done:])])
    return whole.encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8


def _spans(text: str, lexicon: Lexicon) -> list[list[int]]:
    spans: list[list[int]] = []
    for start, end, _ in lexicon.find(text):
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    return spans
