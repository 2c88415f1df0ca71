r"""Text to words: the one normalisation that the lexicon and the planning mask share.

A word is a maximal run of letters, digits (`str.isalnum`) or apostrophes with their combining marks,
folded by `fold`. A character of a script written without spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese) is a word of its own. What separates words is either *transparent* (blanks, commas, quotes,
hyphens, any other sign: a Strategic Gram may run across it) or a *boundary* that no gram crosses: the end
of a sentence in any script (. ! ? 。 ؟ । …), ; : and their relatives, a newline, a math delimiter
($ \( \) \[ \]), or a marker of a chat or thinking format (<think>, <|im_end|>).

>>> [[word.text for word in run] for run in segments("So, let’s check. 让我 मैं")]
[['so', "let's", 'check'], ['让', '我', 'मैं']]

Decisions where the definition is silent:
- Text is composed first (NFC), so that é is one letter however it was typed; offsets are those of the text
  given. Compatibility forms (full-width letters) stay what they are.
- An apostrophe belongs to its word wherever it stands: 'so' in single quotes is not the word so.
- The "##" of a Markdown heading (at the very start of a line, a blank behind it) is the marker
  word HEADING, so that the entry "## step" is "step" behind such a mark. Any other # is
  transparent, and text that uses no heading never sees the marker.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import regex

HEADING = "##"
MATH_BRACKETS = "()[]"  # a boundary when a backslash precedes it
_MARKER = r"<(?:\|[^|<>\n]*\|>|/?think(?:ing)?>)"  # of chat and thinking formats
MARKER = re.compile(_MARKER, re.IGNORECASE)
APOSTROPHES = "\u2019\u2018\u201b\u02bc\uff07"  # typographic forms of ', one character each
# What a character is to a word; a mark belongs to what it stands on.
OTHER, IN_WORD, BOUNDARY, ALONE, MARK = range(5)

_BREAK = re.compile(rf"[.!?;:\n$]|\\[{re.escape(MATH_BRACKETS)}]|{_MARKER}")  # in folded text
_HEADING = re.compile(r"(?:\A|(?<=\n))##(?=[ \t])")
_WORD = re.compile(rf"(?:[^\W_]|')+|{_HEADING.pattern}")  # in ASCII
_SENTENCE_END = regex.compile(r"\p{Sentence_Terminal}|[;:$\n\x85\u2028\u2029\u2025\u2026\u061b\uff1a\uff1b]")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Line_Break=SA}\u30fc\uff70]")
_CLUSTER = regex.compile(
    r"(?s).[\p{M}\u1160-\u11ff\ud7b0-\ud7ff]*"
)  # what can be composed: marks, Hangul jamo
_JOINERS = "\u200c\u200d"  # stand within words
_UNBROKEN = re.compile(f"[^{BOUNDARY}]+")
_SHAPE = re.compile(f"{ALONE}{MARK}*|{IN_WORD}[{IN_WORD}{MARK}]*")


class Word(NamedTuple):
    """One folded word and where it stands: character offsets into the original text."""

    text: str
    start: int
    end: int


@cache
def kind(character: str) -> int:
    """What a folded character is to a word: OTHER, IN_WORD, BOUNDARY, ALONE or MARK."""
    if character.isalnum() or character == "'":
        return ALONE if _UNSPACED.match(character) else IN_WORD
    if _SENTENCE_END.match(character):
        return BOUNDARY
    return MARK if unicodedata.category(character)[0] == "M" or character in _JOINERS else OTHER


def fold(text: str) -> str:
    """Lower-case with typographic apostrophes as ', character for character.

    The result is as long as `text`, so offsets carry over: the one letter whose lower case is
    two characters (U+0130) becomes a plain i, and the final sigma, which depends on what
    follows, becomes the ordinary one.
    """
    for apostrophe in APOSTROPHES:
        text = text.replace(apostrophe, "'")
    return text.replace("\u0130", "i").lower().replace("\u03c2", "\u03c3")


def compose(text: str) -> tuple[str, Sequence[int]]:
    """The text in NFC, and where each of its characters, and its end, stands in the original."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text, range(len(text) + 1)
    pieces, starts = [], []
    for cluster in _CLUSTER.finditer(text):
        pieces.append(unicodedata.normalize("NFC", cluster.group()))
        starts += [cluster.start()] * len(pieces[-1])
    return "".join(pieces), [*starts, len(text)]


def segments(text: str) -> list[list[Word]]:
    """The maximal runs of words of `text` that no boundary separates, in order, none empty."""
    folded = fold(text)
    if folded.isascii():
        return _ascii_segments(folded)
    composed, starts = compose(text)
    folded = fold(composed)
    kinds = "".join(str(kind(character)) for character in folded)
    kinds = _overlaid(kinds, _BREAK.finditer(folded), BOUNDARY)
    kinds = _overlaid(kinds, _HEADING.finditer(folded), IN_WORD)
    runs = [
        [word.span() for word in _SHAPE.finditer(kinds, *run.span())] for run in _UNBROKEN.finditer(kinds)
    ]
    return [[Word(folded[i:j], starts[i], starts[j]) for i, j in run] for run in runs if run]


def _overlaid(kinds: str, places: Iterable[re.Match], kind: int) -> str:
    """The kinds with those of the places replaced by `kind`."""
    pieces, start = [], 0
    for place in places:
        pieces += [kinds[start : place.start()], str(kind) * len(place[0])]
        start = place.end()
    return "".join(pieces) + kinds[start:]


def _ascii_segments(folded: str) -> list[list[Word]]:
    found, start = [], 0
    for begin, end in [*(cut.span() for cut in _BREAK.finditer(folded)), (len(folded), len(folded))]:
        # pos keeps the look-behind on the real text, so a heading is seen after its newline.
        run = [Word(m.group(), *m.span()) for m in _WORD.finditer(folded, start, begin)]
        if run:
            found.append(run)
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
            f"lexicon entry {gram!r} has a boundary (the end of a sentence, ; :, a newline, mathematics) "
            "between its words and can never match; split it into one entry for each part"
        )
    return tuple(word.text for word in runs[0])
