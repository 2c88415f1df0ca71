r"""What a boxed answer says: its LaTeX read into a tree whose parts can be compared one by one.

A node is a tuple, a kind first (they travel to the workers as JSON):
    ("text", words)                     compared as text
    ("letter", "A")                     a lone letter: a choice, a name or a variable
    ("expr", latex)                     an expression for latex2sympy
    ("base", "-37", 8)                  digits in a base
    ("quantity", node, unit, bare)      a value with its unit; bare where a variable could be meant
    ("ratio", nodes)                    3:2
    ("list", nodes, joiner)             values side by side, in any order; joiner "," "and" "or", "pm" of \pm
    ("set", nodes), ("tuple", nodes)    braces, in any order and once each; parentheses, in this order
    ("interval", "[", node, node, ")")  at least one bracket square
    ("union" | "meet" | "minus", nodes) of sets
    ("relation", nodes, operators)      x = 2, 1 < x <= 3; operators one fewer than nodes
    ("matrix", rows)                    rows of nodes
    ("either", nodes)                   readings of ambiguous text: 1,234
Nothing that stands in the text is left out of its tree; docs/grading.md lists what is normalised.
"""

from __future__ import annotations

import functools
import itertools
import math
import re

from hicra.study.problems import answer_words as words
from hicra.study.problems.answer_latex import Prose, Unreadable, expression

Node = tuple

_SIZES = r"left|right|middle|[bB]igg?[lrm]?"
_FONTS = (
    r"mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|textbf|textit|textrm|textsf|texttt|textsc|"
    r"textnormal|textup|mbox|hbox|emph|underline|operatorname\*?|text"
)
_THOUSANDS = (
    r"(?<![0-9.])([0-9]{1,3})((?:(?:\\[,;:> ]|\{\\?,\\?!?\}|,\s*\\!|~|\\thinspace| )\s*[0-9]{3})+)(?![0-9])"
)
_END = r"(?![A-Za-z])"

# Typography: one way to write what means the same. In this order.
_TYPOGRAPHY = [
    (rf"\\(?:{_SIZES}){_END}\s*\.?", ""),
    (_THOUSANDS, lambda m: m[1] + re.sub(r"\D", "", m[2])),
    (r"(?<!\\)(?:\\[()\[\]]|\$)", " "),
    (rf"\\(?:!|(?:display|text|script)style{_END}|(?:no)?limits{_END}|(?:math)?strut{_END})", ""),
    (r"\\phantom\s*(?:\{[^{}]*\}|.)|\\[hv]space\*?\{[^{}]*\}", " "),
    (rf"(?<!\\)\\[,;:> ]|\\(?:q?quad|(?:thin|med|thick|en)space){_END}|~|\{{\s*\}}", " "),
    (r"\{\s*\\(?:rm|bf|it|sf|tt|text)\s+([^{}]*)\}", r"\\text{\1}"),
    (rf"\\(?:{_FONTS})\s*\{{", r"\\text{"),
    (r"\\text\{\s*,?\s*(and|or)\s*\}", r"\\\1 "),
    (rf"\\(?:lor|vee){_END}", r"\\or "),
    (rf"\\(?:land|wedge){_END}", r"\\and "),
    (rf"\^\s*(?:\{{\s*\\circ\s*\}}|\\circ{_END})|\\(?:text)?degree{_END}|\^o{_END}", r"\\degree "),
    (rf"\\(?:leqslant|leqq|leq|le){_END}", "<="),
    (rf"\\(?:geqslant|geqq|geq|ge){_END}", ">="),
    (rf"\\neq?{_END}|\\not\s*=", "!="),
    (rf"\\lt{_END}", "<"),
    (rf"\\gt{_END}", ">"),
    (rf"\\(?:simeq|thickapprox){_END}", r"\\approx "),
    (rf"\\(?:varnothing|empty){_END}|\\\{{\s*\\\}}", r"\\emptyset "),
    (rf"\\lbrace{_END}", r"\\{"),
    (rf"\\rbrace{_END}", r"\\}"),
    (rf"\\(?:langle|lparen){_END}", "("),
    (rf"\\(?:rangle|rparen){_END}", ")"),
    (rf"\\lbrack{_END}", "["),
    (rf"\\rbrack{_END}", "]"),
    (rf"\\(?:[lr]?vert|mid){_END}", "|"),
    (r"(?<![A-Za-z])([ap])\.\s?m\b\.?", r"\1m"),
    (rf"\\colon{_END}|:=", lambda m: "=" if m[0] == ":=" else ":"),
    (r"(?<!\\)%", r"\\%"),
    (r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda m: "'" * m[1].count("prime")),
    (r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?", lambda m: _repeating(*m.groups())),
    (r"(?<![\w.\\}])([0-9]+(?:\.[0-9]*)?)[eE]\+?(-?[0-9]+)(?![\w.])", r"\1\\cdot 10^{\2}"),
    (r"\{?([^{}\\]+)\\choose([^{}\\]+)\}?", r"\\binom{\1}{\2}"),
    (r"(\\mathbb\{[A-Z]\})\s*-", r"\1\\setminus "),
]  # fmt: skip
_TYPOGRAPHY = [(re.compile(pattern), put) for pattern, put in _TYPOGRAPHY]
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_OPERATOR = re.compile(rf"<=|>=|!=|==?|<|>|\\(?:in|notin|approx){_END}")
_JOINER = re.compile(rf"\s*[,;]?\s*(?:\\(and|or){_END}|(?<![A-Za-z\\])(and|or){_END})\s*|\s*[,;]\s*")
_SET_OPERATION = re.compile(rf"\\(cup|cap|setminus|backslash){_END}")
_SET_KINDS = {"cup": "union", "cap": "meet", "setminus": "minus", "backslash": "minus"}
_BASE_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_BASES = {name: base for base, name in enumerate(_BASE_WORDS.split(), start=2)}
_BASE = re.compile(
    rf"([+-]?)\s*\(?\s*([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s*\)?\s*(?:_|\\text\{{\s*\(?(?:in )?(?=base))"
    rf"\s*\{{?\s*(?:\\text\{{)?\s*(?:base)?[\s}}]*([0-9]+|{'|'.join(_BASES)})\s*[\s)}}]*"
)
_MATRIX = re.compile(
    r"(.*?)\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\2\}", re.DOTALL
)
_BUILDER = re.compile(r"\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{[RC]\}\s*)?[|:](.*)", re.DOTALL)
_SUFFIX = r"(?:\\text\{[^{}]*\}|[A-Za-z]|\\cdot|[\s/.]|\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))*"
_UNIT_LETTERS = re.compile(r"[mshglLNJWVAKCFT](?:/[mshl])?")  # signs of units that a variable could be too
_BARE_UNIT = re.compile(rf"(.*[0-9}})])\s*({_UNIT_LETTERS.pattern}(?:\^\{{?[0-9]\}}?)?)")
_COUNTED = re.compile(r"([+-]?[0-9][0-9.,]*) ?([A-Za-z][A-Za-z .]*)")  # \text{5 cm}
_COMMAS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")
_SIGNS = 3  # plus-minus signs in one value at most: eight values
_MOST_TUPLES = 64  # that the plus-minus signs of one tuple may stand for


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Node | None:
    r"""The tree of an answer, or None where it is neither mathematics nor words.

    >>> read(r"x = 1{,}000 \text{ cm}")
    ('relation', (('letter', 'x'), ('quantity', ('expr', '1000'), 'cm', False)), ('=',))
    >>> read("no solution"), read("5 6")
    (('text', 'no solution'), None)
    """
    tidy = _typography(text)
    try:
        return _list(tidy)
    except Prose:
        return ("text", words.fold(tidy))
    except (Unreadable, RecursionError):
        return None


def _typography(text: str) -> str:
    for pattern, put in _TYPOGRAPHY:
        text = pattern.sub(put, text)
    text = _TEXT.sub(_unwrapped, text)
    text = re.sub(r"\s+", " ", text).strip()
    return text if text.endswith("..") else text.rstrip(" .,;:")


def _unwrapped(found: re.Match) -> str:
    r"""What stands in \text{}, without it where it is no word: \text{(C)}, \mathrm{e}, \mathbf{2340}."""
    inside = found[1].strip()
    if counted := _COUNTED.fullmatch(inside):
        return f"{counted[1]} \\text{{{counted[2]}}}"
    before = found.string[: found.start()].rstrip()[-1:]
    if _UNIT_LETTERS.fullmatch(inside) and before and before in "0123456789})":
        return found[0]
    plain = re.sub(r"\\[A-Za-z]+|\b(?:and|or)\b", "", inside)
    if re.search(r"[A-Za-z]\.?[A-Za-z]", plain) or "'" in inside:
        return f"\\{inside} " if inside in words.FUNCTIONS else found[0]
    return found[1]


def _repeating(whole: str, fixed: str, period: str) -> str:
    """0.1(6) as a fraction."""
    shift = 10 ** len(fixed)
    bottom = shift * (10 ** len(period) - 1)
    top = int(whole + fixed + period) - int(whole + fixed or "0") if whole + fixed else int(period)
    return f"\\frac{{{top}}}{{{bottom}}}"


# --- structure -------------------------------------------------------------------------------------


def _pieces(text: str, separator: re.Pattern) -> tuple[list[str], list[re.Match]]:
    """Cut `text` at the separators that stand outside all brackets."""
    parts, found, depth, start, at = [], [], 0, 0, 0
    while at < len(text):
        match = separator.match(text, at) if depth == 0 else None
        if match and match.end() > at:
            parts.append(text[start:at])
            found.append(match)
            start = at = match.end()
            continue
        if text[at] == "\\":
            opened = text[at : at + 2]
            depth += (opened == "\\{") - (opened == "\\}")
            at += 2
            if opened[1:].isalpha():
                depth += text.startswith("begin{", at - 1) - text.startswith("end{", at - 1)
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth < 0:
            raise Unreadable("a bracket closes that was not opened")
        at += 1
    if depth:
        raise Unreadable("a bracket is not closed")
    return [*parts, text[start:]], found


def _list(text: str) -> Node:
    if _is_text(text):
        return ("text", words.fold(text))
    parts, joiners = _pieces(text, _JOINER)
    if len(parts) == 1:
        return _statement(text)
    if any(";" in j[0] for j in joiners) and any("," in j[0] for j in joiners):
        rows = _pieces(text, re.compile(r"\s*;\s*"))[0]
        return ("list", _spread([_list(row) for row in rows]), ",")
    said = {j[1] or j[2] or "," for j in joiners}
    listed = ("list", _spread([_statement(part) for part in parts]), "or" if "or" in said else min(said))
    joined = _COMMAS.sub(lambda m: m[0].replace(",", ""), text)
    if joined != text and len(_pieces(joined, _JOINER)[0]) < len(parts):
        return ("either", (_list(joined), listed))
    return listed


def _is_text(text: str) -> bool:
    """Only words, and one of them at least is text by the rule or set as text."""
    plain = _TEXT.sub(r" \1 ", text)
    runs = re.findall(r"[A-Za-z]+", plain)
    if re.fullmatch(r"\\text\{[^{}\\]*\}", text):
        return bool(runs)
    if not re.fullmatch(r"[A-Za-z][A-Za-z .'\-!?]*", plain.strip()):
        return False
    if "-" in plain and not any(len(run) > 2 and words.is_text(run) and not run.isupper() for run in runs):
        return False
    return any(words.is_text(run) for run in runs) or "\\text{" in text


def _spread(nodes: list[Node]) -> tuple[Node, ...]:
    """Members; those of a plus-minus sign one by one."""
    return tuple(m for node in nodes for m in (node[1] if node[0] == "list" and node[2] == "pm" else [node]))


def _statement(text: str) -> Node:
    text = re.sub(rf"^\s*\\approx{_END}", "", text).strip()
    parts, found = _pieces(text, _OPERATOR)
    if len(parts) == 1:
        return _set_operation(text)
    signs = [m[0].replace("==", "=").removeprefix("\\") for m in found]
    return ("relation", tuple(_list(part.strip()) for part in parts), tuple(signs))


def _set_operation(text: str) -> Node:
    parts, found = _pieces(text, _SET_OPERATION)
    if len(parts) == 1:
        return _value(text)
    kinds = {_SET_KINDS[m[1]] for m in found}
    if len(kinds) > 1 or (kinds == {"minus"} and len(parts) > 2):
        raise Unreadable("set operations without brackets")
    return (kinds.pop(), tuple(_value(part.strip()) for part in parts))


def _value(text: str) -> Node:
    """One value: words, a bracket, a matrix, a ratio, a quantity, a number in a base or an expression."""
    if not text:
        raise Unreadable("an empty value")
    if _is_text(text):
        return ("text", words.fold(text))
    for attempt in (_matrix, _bracket, _based, _ratio, _quantity):
        if node := attempt(text):
            return node
    return _signs(text)


def _matrix(text: str) -> Node | None:
    bare = re.sub(r"^\s*\[(\s*\\begin\{(?:matrix|array)\}.*)\]\s*$", r"\1", text, flags=re.DOTALL)
    found = _MATRIX.fullmatch(bare.strip())
    if not found:
        return None
    factor = f"({found[1]})" if found[1].strip() not in ("", "-") else found[1].strip()
    lines = [row for row in re.split(r"\\\\|\\cr\b", found[3]) if row.strip()]
    return ("matrix", tuple(tuple(_value(f"{factor}({c.strip()})") for c in row.split("&")) for row in lines))


def _bracket(text: str) -> Node | None:
    """A value that one pair of brackets encloses."""
    start, end = (2, len(text) - 2) if text.startswith("\\{") else (1, len(text) - 1)
    opening, closing, inside = text[:start], text[end:], text[start:end]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}") or not _balanced(inside):
        return None
    if opening == "\\{" or closing == "\\}":
        return _braces(opening, inside, closing)
    parts = _pieces(inside, re.compile(r"[,;]"))[0]
    if len(parts) == 1:
        return _list(inside.strip()) if opening + closing in ("()", "[]") else None
    nodes = [_statement(part.strip()) for part in parts]
    if opening + closing == "()" or (opening + closing == "[]" and len(parts) > 2):
        return _tuple(nodes)
    if len(parts) != 2:
        raise Unreadable("an interval has two ends")
    return ("interval", opening, *nodes, closing)


def _balanced(text: str) -> bool:
    try:
        _pieces(text, re.compile(r"\Z"))
    except Unreadable:
        return False
    return True


def _braces(opening: str, inside: str, closing: str) -> Node:
    if opening + closing != "\\{\\}":
        raise Unreadable("one brace of two")
    if builder := _BUILDER.fullmatch(inside):
        return _statement(builder[1].strip())
    return ("set", _spread([_statement(part.strip()) for part in _pieces(inside, re.compile(r"[,;]"))[0]]))


def _tuple(nodes: list[Node]) -> Node:
    choices = [node[1] if node[0] == "list" and node[2] == "pm" else (node,) for node in nodes]
    if math.prod(map(len, choices)) > _MOST_TUPLES:
        raise Unreadable("too many plus-minus signs")
    tuples = tuple(("tuple", members) for members in itertools.product(*choices))
    return tuples[0] if len(tuples) == 1 else ("list", tuples, "pm")


def _ratio(text: str) -> Node | None:
    parts = _pieces(text, re.compile(r"\s*:\s*"))[0]
    if len(parts) == 1:
        return None
    last = _quantity(parts[-1].strip())  # 8:34 p.m.
    nodes = tuple(_signs(part.strip()) for part in parts[:-1])
    if last is None:
        return ("ratio", (*nodes, _signs(parts[-1].strip())))
    return ("quantity", ("ratio", (*nodes, last[1])), last[2], False)


# --- units -----------------------------------------------------------------------------------------


def _quantity(text: str) -> Node | None:
    if found := re.fullmatch(r"([+-]?)\s*\\\$\s*(.*)|(.*?)\s*\\\$", text):
        inner = found[3] if found[2] is None else found[1] + found[2]
        node = _value(inner.strip())
        unit = node[2] if node[0] == "quantity" and not node[3] else ""
        if unit not in ("", "dollar"):
            raise Unreadable("two units")
        return ("quantity", node[1] if unit else node, "dollar", False)
    if text.endswith("\\%"):
        if text[:-2].rstrip().endswith("\\%"):
            raise Unreadable("two units")
        return ("quantity", _value(text[:-2].strip()), "%", False)
    if found := re.fullmatch(rf"(.*?)\s*\\degree{_END}\s*(?:\\text\{{\s*)?([CFK])\s*\}}?", text):
        return ("quantity", _value(found[1]), f"degree {found[2].lower()}", False)
    if "\\degree" in text and not re.search(rf"\\(?:{'|'.join(words.FUNCTIONS)}){_END}", text):
        return ("quantity", _value(re.sub(rf"\\degree{_END}", " ", text).strip()), "degree", False)
    return _worded_quantity(text) or _lettered_quantity(text)


def _worded_quantity(text: str) -> Node | None:
    r"""A value, then a unit in \text{} or in words."""
    runs = re.finditer(r"(?<!_)\\text\{|(?<![A-Za-z\\{_])[A-Za-z]+", text)
    start = next((m.start() for m in runs if m[0][0] == "\\" or _is_unit(m[0], text[: m.start()])), 0)
    if not text[:start].strip() or not re.fullmatch(_SUFFIX, text[start:]):
        return None
    while earlier := re.search(r"(?<![A-Za-z\\])([a-z]+) $", text[:start]):  # "red" of 5 red apples
        if not words.is_text(earlier[1]) or not text[: earlier.start()].strip():
            break
        start = earlier.start()
    return ("quantity", _value(text[:start].strip()), words.unit(text[start:]), False)


def _is_unit(run: str, before: str) -> bool:
    """Whether a bare run is a unit; `hr` and others that look like a product only after a plain number."""
    plain = re.fullmatch(r"[+-]?(?:[0-9.,/{} ]|\\frac)+", before)
    return words.is_unit_word(run) and bool(plain or run.lower() not in words.LIKE_PRODUCTS)


def _lettered_quantity(text: str) -> Node | None:
    """3 m: a product, or a quantity where the other side has that unit."""
    found = _BARE_UNIT.fullmatch(text)
    if not found or re.search(
        r"(?<!\\)(?<![A-Za-z])[A-Za-z](?![A-Za-z])", re.sub(r"\\[A-Za-z]+", "\\\\", found[1])
    ):
        return None
    product = _signs(text)
    try:
        quantity = ("quantity", _value(found[1]), words.unit(found[2]), True)
    except Unreadable:
        return product
    return ("either", (product, quantity))


# --- values ----------------------------------------------------------------------------------------


def _based(text: str) -> Node | None:
    found = _BASE.fullmatch(re.sub(r"\\text\{([0-9A-Za-z.]+)\}", r"\1", text))
    if not found:
        return None
    base = _BASES.get(found[3]) or int(found[3])
    digits = found[2].upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or found[2].isalpha() or _highest(found[2]) >= base:
        return None
    return ("base", found[1].replace("+", "") + digits, base)


def _highest(digits: str) -> int:
    return max(int(digit, 36) for digit in digits if digit != ".")


def _signs(text: str) -> Node:
    """An expression; with plus-minus signs, the list of its values."""
    parts = re.split(rf"\\(pm|mp){_END}", text)
    signs = parts[1::2]
    if not signs:
        return _leaf(text)
    if "pm" not in signs:
        raise Unreadable("a minus-plus sign goes with a plus-minus sign")
    if len(signs) > _SIGNS:
        raise Unreadable("too many plus-minus signs")
    linked = [dict(pm=s, mp="-" if s == "+" else "+") for s in "+-"]
    choices = (
        [[c[k] for k in signs] for c in linked]
        if "mp" in signs
        else itertools.product("+-", repeat=len(signs))
    )
    values = ("".join(itertools.chain.from_iterable(zip(parts[::2], [*c, ""], strict=True))) for c in choices)
    return ("list", tuple(_leaf(value) for value in values), "pm")


def _leaf(text: str) -> Node:
    text = re.sub(r"^([+-]?\s*)([0-9]+) ([0-9]+)/([0-9]+)$", r"\1\2\\frac{\3}{\4}", text.strip())
    if "\\text{" in text:
        text = re.sub(r"(_\s*\{?)\s*\\text\s*\{\s*([A-Za-z0-9 ]*)\}", r"\1{\2}", text)
        if "\\text{" in text:
            raise Prose(text)
    if re.fullmatch(r"[A-Za-df-hj-z]", text):
        return ("letter", text)
    return ("expr", expression(_degrees(text), words.is_word))


def _degrees(text: str) -> str:
    r"""Degrees under a function as parts of pi: \sin 30^\circ is \sin of 30 pi/180."""
    sized = r"(\\(?:[a-z]+)(?:\^\{?-?[0-9]\}?)?)\s*([0-9.]+|\\[a-z]+)\s*\\degree(?![A-Za-z])"
    text = re.sub(sized, r"\1(\2\\cdot\\frac{\\pi}{180})", text)
    return re.sub(r"\\degree(?![A-Za-z])", r"\\cdot\\frac{\\pi}{180}", text)
