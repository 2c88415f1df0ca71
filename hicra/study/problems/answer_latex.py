r"""One expression of an answer in the plain LaTeX that latex2sympy reads without dropping anything.

latex2sympy forgives: it adds the factors of `2(3)` and of two binomials side by side, ignores the base of
`52_8`, the primes of `f'`, degrees and quotation marks, takes `\gamma` for Euler's constant and `I` for
the imaginary unit. So an expression is written anew from tokens that are known, with every product
explicit and every name spelled out; what is not known is an error, never ignored.
"""

from __future__ import annotations

import re

FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec",
    "arccsc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "arsinh", "arcosh", "artanh", "arcsinh",
    "arccosh", "arctanh", "log", "ln", "exp",
})  # fmt: skip
_SEVERAL = frozenset({"max", "min", "gcd", "lcm"})  # functions of a list in parentheses
_BIG = frozenset({"sum", "prod", "int", "lim"})
_PLAIN_NAMES = {
    "pi": r"\pi ",
    "sqrt": r"\sqrt",
    "infinity": r"\infty ",
    "inf": r"\infty ",
    "infty": r"\infty ",
}
_GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "omicron", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "hbar",
    "ell", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega",
    "triangle", "angle", "odot", "oplus", "circ", "star",
})  # fmt: skip
_ACCENTS = frozenset({
    "bar", "overline", "vec", "overrightarrow", "hat", "widehat", "tilde", "widetilde", "dot", "ddot",
    "mathcal", "mathscr", "mathfrak",
})  # fmt: skip
_OPERATORS = {"+": "+", "-": "-", "/": "/", "*": r"\cdot ", r"\cdot": r"\cdot ", r"\times": r"\cdot "}
_OPERATORS |= {r"\ast": r"\cdot ", r"\div": "/", r"\mod": r"\mod ", r"\bmod": r"\mod "}
_PAIRS = {"(": (")", "(", ")"), "[": ("]", "(", ")"), "{": ("}", "(", ")"), "|": ("|", "|", "|")}
_PAIRS |= {r"\lfloor": (r"\rfloor", r"\lfloor ", r"\rfloor ")}
_PAIRS |= {r"\lceil": (r"\rceil", r"\lceil ", r"\rceil ")}
_CALLS = tuple(f"\\{name}" for name in FUNCTIONS)
_TOKEN = re.compile(r"\s+|\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|[A-Za-z]+|.")
_APPLIED = re.compile(r"\(\s*([A-Za-z]|[0-9]+)\s*(?:,\s*([A-Za-z]|[0-9]+)\s*)*\)")


class Unreadable(ValueError):
    """The text is not an expression that can be read whole."""


class Prose(Unreadable):
    """The text holds words where an expression was expected."""


def expression(text: str, is_word=lambda run: False) -> str:
    r"""`text` for latex2sympy, everything in it accounted for.

    `is_word` tells which runs of letters are words and no products. Raises Prose where one is met,
    Unreadable for anything else that is not known.

    >>> expression(r"\dfrac12 (3)").replace(" ", "")
    '\\frac{1}{2}\\cdot(3)'
    """
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    writer = _Writer(_TOKEN.findall(text), is_word)
    written = writer.sequence(None)
    if not written.strip():
        raise Unreadable("an empty expression")
    return written


class _Writer:
    """Reads tokens from left to right and writes them anew; `last` is the kind of the factor before."""

    def __init__(self, tokens: list[str], is_word) -> None:
        self.tokens, self.is_word, self.at = tokens, is_word, 0
        together = "".join(tokens)
        self.differentials = "\\int" in together or re.search(r"\\frac\s*\{\s*d[^{}]*\}\s*\{\s*d", together)

    # --- tokens ---

    def peek(self) -> str | None:
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise Unreadable("the expression ends too early")
        self.at += 1
        return token

    def rest(self) -> str:
        return "".join(self.tokens[self.at :])

    def shorten(self, length: int) -> None:
        """Take `length` characters of the token ahead, leave the rest of it."""
        token = self.tokens[self.at]
        self.tokens[self.at : self.at + 1] = [part for part in (token[:length], token[length:]) if part]

    # --- writing ---

    def sequence(self, closing: str | None, *, listed: bool = False) -> str:
        """Factors and operators up to `closing`; commas too where a function's arguments are `listed`."""
        out: list[str] = []
        last = None
        while (token := self.peek()) != closing:
            if token is None:
                raise Unreadable(f"{closing} is missing")
            if token == "," and listed:
                self.take()
                out.append(",")
                last = None
            elif token in _OPERATORS:
                out.append(_OPERATORS[self.take()])
                last = None
            elif token == "!":
                out.append(self.take())
                last = "power"
            elif token == "^":
                self.take()
                out.append(f"^{_braced(self.argument(plain=True))}")
                last = "power" if last else None
            else:
                last = self.factor(out, last)
        if closing is not None:
            self.take()
        return "".join(out)

    def factor(self, out: list[str], last: str | None) -> str | None:
        """Write one factor; `closed` ones, which may be whole numbers, are multiplied by a sign."""
        kind, written = self.one(self.take())
        if re.fullmatch(r"\([0-9]+\)", written) and not (out and out[-1].startswith(_CALLS)):
            written = written[1:-1]  # the parser takes ten times as long over (3)
        if kind == last == "number":
            raise Unreadable("two numbers side by side")
        if kind == "closed" and last == "number" and (mixed := _mixed(out[-1], written)):
            out[-1] = mixed
            return "closed"
        if last in ("number", "closed") and kind in ("number", "closed"):
            out.append(r"\cdot ")
        out.append(written)
        return None if kind == "function" else kind

    def one(self, token: str) -> tuple[str, str]:
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return "number", token.removesuffix(".") if token[0].isdigit() else f"0{token}"
        if token in _PAIRS:
            closing, left, right = _PAIRS[token]
            return "closed", f"{left}{self.sequence(closing)}{right}"
        if token[0].isalpha():
            return self.letters(token)
        if token.startswith("\\") and token[1:].isalpha():
            return self.command(token[1:])
        raise Unreadable(f"{token!r} cannot be read here")

    def letters(self, run: str) -> tuple[str, str]:
        if run in _PLAIN_NAMES:
            return self.command({"sqrt": "sqrt", "pi": "pi"}.get(run, "infty"))
        if run in FUNCTIONS or run in _SEVERAL or (run in _GREEK and len(run) > 3):
            return self.command(run)
        if self.is_word(run):
            raise Prose(f"the word {run!r}")
        if len(run) > 1:
            if self.differentials and len(run) == 2 and run[0] == "d":
                return "factor", run
            self.at -= 1
            self.shorten(1)
            self.at += 1
        return self.name(run[0])

    def command(self, name: str) -> tuple[str, str]:
        if name == "frac":
            return "closed", f"\\frac{{{self.argument()}}}{{{self.argument()}}}"
        if name in ("binom", "dbinom", "tbinom"):
            return "closed", f"\\binom{{{self.argument()}}}{{{self.argument()}}}"
        if name == "sqrt":
            return "factor", self.root()
        if name in FUNCTIONS:
            return "function", self.function(name)
        if name in _SEVERAL and self.peek() == "(":
            self.take()
            return "closed", f"\\{name}({self.sequence(')', listed=True)})"
        if name in _BIG:
            return "function", self.big(name)
        if name in ("pi", "infty", "emptyset"):
            return "factor", f"\\{name} "
        if name == "mathbb":
            return "factor", f"\\mathbb{{{self.raw()}}}"
        if name in _GREEK or name.removeprefix("var") in _GREEK:
            return self.name(name.removeprefix("var"))
        if name in _ACCENTS:
            return self.name(f"{name} {self.raw()}")
        raise Unreadable(f"\\{name} is not known")

    def root(self) -> str:
        if self.peek() != "[":
            return f"\\sqrt{{{self.argument()}}}"
        self.take()
        return f"\\sqrt[{self.sequence(']')}]{{{self.argument()}}}"

    def function(self, name: str) -> str:
        written = f"\\{name}"
        while self.peek() in ("^", "_"):
            mark = self.take()
            argument = self.argument(plain=mark == "^")
            written += f"^{_braced(argument)}" if mark == "^" else f"_{{{argument}}}"
        return f"{written} "

    def big(self, name: str) -> str:
        written = f"\\{name}"
        while self.peek() in ("^", "_"):
            written += f"{self.take()}{{{self.raw()}}}"
        return f"{written} "

    def name(self, text: str) -> tuple[str, str]:
        """A name with its subscript, primes and, as in f(x) or y'(0), what it is applied to."""
        while (mark := self.peek()) in ("_", "'"):
            self.take()
            text += "'" if mark == "'" else f"_{self.raw()}"
        applied = text not in ("e", "i") and _APPLIED.match(self.rest())
        if applied:
            self.skip(applied.end())
            text += re.sub(r"\s", "", applied[0])
        if text in ("e", "i") or (len(text) == 1 and text not in "IEd"):
            return "factor", text
        if text == "d" and self.differentials:
            return "factor", "d "
        return "factor", "\\variable{" + re.sub(r"\W|_", lambda c: f"Z{ord(c[0]):x}Z", text) + "}"

    def skip(self, length: int) -> None:
        end = len(self.rest()) - length
        while len(self.rest()) > end:
            self.at += 1

    # --- arguments ---

    def argument(self, *, plain: bool = False) -> str:
        r"""An argument by TeX's rule, one token or a group; `plain`: x^10, x^-1, x^(n+1) as written."""
        token = self.peek()
        if token == "{":
            self.take()
            inside = self.sequence("}")
            return re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", inside)
        if plain and token in ("-", "+"):
            return self.take() + self.argument()
        if plain and token == "(":
            self.take()
            return f"({self.sequence(')')})"
        if token and token[0].isalnum() and not (plain and token[0].isdigit()):
            self.shorten(1)
        return self.one(self.take())[1]

    def raw(self) -> str:
        """An argument as it stands: a subscript, a sum's range."""
        token = self.take()
        if token != "{":
            if token[0].isalpha() and len(token) > 1:
                self.at -= 1
                self.shorten(1)
                self.at += 1
                return token[0]
            return token
        start, depth = self.at, 1
        while depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
        return re.sub(r"\\text|[{}]", "", "".join(self.tokens[start : self.at - 1])).strip()


def _braced(argument: str) -> str:
    """Without braces where none are needed: the parser is twice as fast."""
    return argument if re.fullmatch(r"[0-9]+|[A-Za-z]", argument) else f"{{{argument}}}"


def _mixed(whole: str, fraction: str) -> str | None:
    r"""2\frac{1}{2} as one fraction; None where the fraction is no proper one of whole numbers."""
    found = re.fullmatch(r"\\frac\{([0-9]+)\}\{([0-9]+)\}", fraction)
    if not (found and whole.isdigit() and int(found[1]) < int(found[2])):
        return None
    return f"\\frac{{{int(whole) * int(found[2]) + int(found[1])}}}{{{found[2]}}}"
