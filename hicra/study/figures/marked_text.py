"""A text with its Strategic Grams marked, as a picture (Fig. 6): for pages that show no HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import wrap

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hicra.study.figures.style import VERMILION, WIDTH, house

COLUMNS = 96  # characters a line
POINTS = 8
LEADING = 1.6  # lines' distance, in font sizes
ADVANCE = 0.602  # width of a character of DejaVu Sans Mono, in font sizes
MONO = {"family": "DejaVu Sans Mono", "fontsize": POINTS, "va": "center"}


@house()
def marked_text(text: str, spans: Sequence[tuple[int, int]], *, title: str, note: str) -> Figure:
    """The text with the characters of `spans` in bold on a tint, so that it also reads in grey.

    `spans` are (start, end) offsets into `text`, as `Lexicon.find` gives them; they may overlap. Line breaks
    become spaces.
    """
    planning = [any(start <= i < end for start, end, *_ in spans) for i in range(len(text))]
    lines = list(_lines(text, planning))
    step = POINTS * LEADING / 72  # inches
    height = (len(lines) + 3.5) * step
    figure = plt.figure(figsize=(WIDTH, height))
    plt.close(figure)
    figure.add_axes((0, 0, 1, 1)).set_axis_off()  # a notebook shows no figure without axes
    figure.text(0.01, 1 - step / height, title, fontsize=11, fontweight="bold", va="center")

    def x(column: int) -> float:
        return 0.012 + column * ADVANCE * POINTS / 72 / WIDTH

    for row, pieces in enumerate(lines):
        y = 1 - (row + 2.5) * step / height
        for column, piece, marked in pieces:
            if marked:
                tint = {"facecolor": (*VERMILION, 0.22), "transform": figure.transFigure}
                box = Rectangle(
                    (x(column), y - 0.45 * step / height), x(len(piece)) - x(0), 0.9 * step / height, **tint
                )
                figure.add_artist(box)
            # Word by word: the renderer rounds the width of every character.
            for word in re.finditer(r"\S+", piece):
                weight = "bold" if marked else "normal"
                figure.text(x(column + word.start()), y, word[0], weight=weight, **MONO)
    figure.text(0.01, 0.4 * step / height, note, fontsize=7.5, color="0.25", va="center")
    return figure


def _lines(text: str, planning: Sequence[bool]) -> Iterator[list[tuple[int, str, bool]]]:
    """Lines as pieces (column, characters, marked); the marks follow each character to its line."""
    place = 0
    for line in wrap(text, COLUMNS, break_on_hyphens=False):
        pieces: list[tuple[int, str, bool]] = []
        for column, sign in enumerate(line):
            while text[place].isspace() and not sign.isspace():  # what `wrap` dropped at a line's end
                place += 1
            marked = planning[place]
            place += 1
            if pieces and pieces[-1][2] == marked:
                start, piece, _ = pieces[-1]
                pieces[-1] = (start, piece + sign, marked)
            else:
                pieces.append((column, sign, marked))
        yield pieces
