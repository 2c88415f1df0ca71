"""Text to words: the one normalisation that the lexicon and the planning mask share.

A word is a maximal run of letters, digits (`str.isalnum`) or apostrophes, folded by `fold`.
What separates words is either *transparent* (blanks, commas, quotes, hyphens, any other sign:
a Strategic Gram may run across it) or a *boundary* that no gram crosses: . ! ? ; : a newline
or a math delimiter ($ \\( \\) \\[ \\]).

Decisions where the definition is silent:
- A combining mark (Unicode category M) is no letter, hence transparent: text is taken as it
  comes, usually composed (NFC), because composing it would move the offsets.
- An apostrophe belongs to its word wherever it stands: 'so' in single quotes is not the word so.
- The "##" of a Markdown heading (at the very start of a line, a blank behind it) is the marker
  word HEADING, so that the entry "## step" is "step" behind such a mark. Any other # is
  transparent, and text that uses no heading never sees the marker.
"""

import re
from typing import NamedTuple

HEADING = "##"
BOUNDARIES = ".!?;:\n$"  # single characters; the two-character ones are in MATH_BRACKETS
MATH_BRACKETS = "()[]"  # a boundary when a backslash precedes it
APOSTROPHES = "\u2019\u2018\u201b\u02bc\uff07"  # typographic forms of ', one character each

_BREAK = re.compile(rf"[{re.escape(BOUNDARIES)}]|\\[{re.escape(MATH_BRACKETS)}]")
_WORD = re.compile(r"(?:[^\W_]|')+|(?:\A|(?<=\n))##(?=[ \t])")


def in_word(character: str) -> bool:
    """Whether a folded character belongs to a word (what _WORD matches, one at a time)."""
    return character.isalnum() or character == "'"


class Word(NamedTuple):
    """One folded word and where it stands: character offsets into the original text."""

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """Lower-case with typographic apostrophes as ', character for character.

    The result is as long as `text`, so offsets carry over: the one letter whose lower case is
    two characters (U+0130) becomes a plain i, and the final sigma, which depends on what
    follows, becomes the ordinary one.
    """
    for apostrophe in APOSTROPHES:
        text = text.replace(apostrophe, "'")
    return text.replace("\u0130", "i").lower().replace("\u03c2", "\u03c3")


def segments(text: str) -> list[list[Word]]:
    """The maximal runs of words of `text` that no boundary separates, in order, none empty."""
    folded, found, start = fold(text), [], 0
    for end in [*(cut.start() for cut in _BREAK.finditer(folded)), len(folded)]:
        # pos keeps the look-behind on the real text, so a heading is seen after its newline.
        words = [Word(m.group(), *m.span()) for m in _WORD.finditer(folded, start, end)]
        if words:
            found.append(words)
        start = end
    return found


def normalise(gram: str) -> tuple[str, ...]:
    """The words of a lexicon entry: "Wait, no" -> ("wait", "no"), "## Step" -> ("##", "step").

    Raises ValueError for an entry without a word and for one with a boundary between its words,
    which no text could ever match.
    """
    runs = segments(gram)
    if not any(word.text != HEADING for run in runs for word in run):
        raise ValueError(f"lexicon entry {gram!r} has no word; remove it or spell it in letters")
    if len(runs) > 1:
        raise ValueError(
            f"lexicon entry {gram!r} has a boundary (. ! ? ; : newline, math) between its words "
            "and can never match; split it into one entry for each part"
        )
    return tuple(word.text for word in runs[0])
