r"""Whether two answers are equal, part by part: the trees of answers.py.

latex2sympy, the parser of math-verify, reads their expressions.

Numbers without a decimal point are compared exactly: as fractions, as products of prime powers, or else by
as many digits as their parts are apart and `SURE` more. Expressions are compared by their values at points.
Decimals agree in 6 decimals and 5 digits. All of it is bounded in time and memory; what cannot be decided
within the bounds is not equal. The gold answer comes first everywhere: it decides how the other is read.

Imports nothing of hicra: grading_worker.py loads it in a process that holds nothing else.
"""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from math import factorial, floor, log10

import mpmath
import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

SURE = 220  # digits that two numbers must share beyond what their parts are apart
ROUGH = 30  # digits of a first look
MOST_DIGITS = 12_000  # to compute with
MOST_BITS = 1 << 18  # of an exact numerator or denominator
MOST_TERMS = 10_000  # of a sum or product that is written out
DECIMALS, DIGITS = 6, 5  # in which decimals must agree
ROUNDED = Fraction(1, 50)  # how far the right side of x \approx 0.67 may be from the left
_SAME_CASE = ConversionConfig(lowercase_symbols=False)  # R and r are two letters


class Undecided(ArithmeticError):
    """Too large to compare within the bounds."""


class Unknown(TypeError):
    """A part of an expression that is no number and no function of numbers, such as an integral."""


# --- reading ---------------------------------------------------------------------------------------


def parse(node) -> None:
    """Read every expression of a tree, so that what cannot be read is known before anything is compared."""
    if isinstance(node, list) and node and node[0] in ("expr", "letter"):
        sympified(node[1])
    elif isinstance(node, list):
        for part in node:
            parse(part)


@functools.lru_cache(maxsize=4096)  # the gold answer recurs in its group
def sympified(latex: str):
    """The sympy object of one expression. `i` is the imaginary unit, as `e` is Euler's number."""
    found = latex2sympy(latex, is_real=True, normalization_config=None, conversion_config=_SAME_CASE)
    if not isinstance(found, sympy.Basic):
        raise ValueError(f"{latex} is no expression")
    return found.xreplace({sympy.Symbol("i", real=True): sympy.I})


# --- structure -------------------------------------------------------------------------------------


def same(gold, answer) -> bool:
    """Whether two trees say the same."""
    if gold == answer:
        return True
    for side, other in ((gold, answer), (answer, gold)):
        if side[0] == "either":
            pairs = ((s, other) if side is gold else (other, s) for s in side[1])
            return any(same(*pair) for pair in pairs)
    if "relation" in (gold[0], answer[0]) or _inequalities(gold) or _inequalities(answer):
        return _same_relation(gold, answer)
    if "quantity" in (gold[0], answer[0]):
        return _same_quantity(gold, answer)
    if "base" in (gold[0], answer[0]):
        return _same_base(gold, answer)
    if {gold[0], answer[0]} == {"list", "text"}:
        return _same_words(gold, answer)
    if {gold[0], answer[0]} <= {"list", "set", "tuple"} and "list" in (gold[0], answer[0]):
        return _same_list(gold, answer)
    if gold[0] == "set" or answer[0] == "set":
        return _same_members(gold, answer) or _same_set(gold, answer)
    if {gold[0], answer[0]} & {"union", "meet", "minus"}:
        return _same_set(gold, answer)
    if "ratio" in (gold[0], answer[0]):
        return _same_ratio(gold, answer)
    if gold[0] == answer[0]:
        return _same_kind(gold, answer)
    return (
        same_value(gold[1], answer[1]) if _is_value(gold) and _is_value(answer) else _same_set(gold, answer)
    )


def _same_kind(gold, answer) -> bool:
    kind = gold[0]
    if kind == "letter":
        return gold[1].lower() == answer[1].lower()
    if kind == "expr":
        return same_value(gold[1], answer[1])
    if kind == "tuple":
        return _in_order(gold[1], answer[1])
    if kind == "interval":
        return gold[1] == answer[1] and gold[4] == answer[4] and _in_order(gold[2:4], answer[2:4])
    if kind == "matrix":
        return len(gold[1]) == len(answer[1]) and all(map(_in_order, gold[1], answer[1]))
    return False


def _same_words(gold, answer) -> bool:
    """Words of one text, which keep their order, and the same words listed."""
    listed, text = (gold, answer) if gold[0] == "list" else (answer, gold)
    said = [member[1] for member in listed[1] if member[0] in ("text", "letter")]
    return len(said) == len(listed[1]) and ", ".join(said).lower() == text[1].replace(" and ", ", ")


def _is_value(node) -> bool:
    return node[0] in ("expr", "letter")


def _in_order(gold, answer) -> bool:
    return len(gold) == len(answer) and all(map(same, gold, answer))


def _in_any_order(gold, answer) -> bool:
    """Each member has a partner of its own."""
    left = list(answer)
    for member in gold:
        partner = next((i for i, other in enumerate(left) if same(member, other)), None)
        if partner is None:
            return False
        del left[partner]
    return not left


def _same_list(gold, answer) -> bool:
    """Lists in any order; brackets around one do not matter where the order agrees."""
    if "set" in (gold[0], answer[0]):
        return _same_members(gold, answer)
    if "tuple" in (gold[0], answer[0]):
        return _in_order(gold[1], answer[1])
    return _in_any_order(gold[1], answer[1])


def _same_members(gold, answer) -> bool:
    """As sets: what stands in one stands in the other; a single value is the set of it."""
    left, right = (node[1] if node[0] in ("set", "list") else [node] for node in (gold, answer))
    return all(any(same(g, a) for a in right) for g in left) and all(
        any(same(g, a) for g in left) for a in right
    )


_PARTS = {"%": r"\frac{1}{100}", "degree": r"\frac{\pi}{180}"}  # of what the sign stands for


def _same_quantity(gold, answer) -> bool:
    """Units agree or one is left out; 50 % is also taken as 0.5, and 90 degrees as pi/2."""
    (value, unit, bare), (given, its_unit, its_bare) = map(_with_unit, (gold, answer))
    if unit and its_unit:
        return unit == its_unit and same(value, given)
    if bare or its_bare:
        return False
    return same(value, given) or (
        (unit or its_unit) in _PARTS and same(_part_of(value, unit), _part_of(given, its_unit))
    )


def _part_of(value, unit):
    if unit not in _PARTS or not _is_value(value):
        return value
    return ["expr", f"({value[1]})\\cdot {_PARTS[unit]}"]


def _with_unit(node):
    return node[1:4] if node[0] == "quantity" else (node, "", False)


def _same_base(gold, answer) -> bool:
    """The same number in the same base. The base may be left out, as the question names it."""
    if gold[0] == answer[0]:
        return gold[2] == answer[2] and _in_base(*gold[1:]) == _in_base(*answer[1:])
    if gold[0] == "base" and _is_value(answer):
        return answer[1].lstrip("0") == gold[1] or (gold[2] == 10 and same(["expr", gold[1]], answer))
    return _is_value(gold) and answer[2] == 10 and same(gold, ["expr", answer[1]])


def _in_base(digits: str, base: int) -> Fraction:
    whole, _, part = digits.partition(".")
    return Fraction(int(whole + part, base), base ** len(part))


def _same_ratio(gold, answer) -> bool:
    """a:b:c up to a common factor; of two parts, also their quotient."""
    parts = [n[1] if n[0] == "ratio" else [n, ["expr", "1"]] for n in (gold, answer)]
    if len(parts[0]) != len(parts[1]) or not all(_is_value(p) for side in parts for p in side):
        return False
    if all(n[0] == "ratio" for n in (gold, answer)) and _in_order(*parts):
        return True
    (g, *gold_rest), (a, *rest) = parts
    pairs = zip(gold_rest, rest, strict=True)
    crossed = (same_value(f"({g[1]})\\cdot ({y[1]})", f"({a[1]})\\cdot ({x[1]})") for x, y in pairs)
    return all(not same_value(p[1], "0") for side in parts for p in side) and all(crossed)


# --- relations -------------------------------------------------------------------------------------

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def _same_relation(gold, answer) -> bool:
    """Equations and inequalities; x = 5 where 5 is wanted, and 5 where x = 5 is."""
    if gold[0] == answer[0] == "list":
        return (
            gold[2] in (answer[2], ",") or answer[2] == ","
            if _same_list(gold, answer)
            else _both(gold, answer)
        )
    if gold[0] == answer[0] == "relation" and _name(gold) is not None and _name(answer) is not None:
        return same(_name(gold), _name(answer)) and _values_agree(_values(gold), _values(answer))
    if answer[0] == "relation" and gold[0] != "relation" and _is_equation(answer):
        return bool(values := _values(answer)) and all(same(gold, value) for value in values)
    if gold[0] == "relation" and answer[0] != "relation" and _is_equation(gold):
        named = _name(gold) is not None or "approx" in gold[2]
        return (named or len(gold[1]) == 2) and _stands_for(gold, answer, named)
    return _both(gold, answer) or _same_set(gold, answer)


def _stands_for(gold, answer, named: bool) -> bool:
    """Whether an answer without relation is the value that the gold's equation gives."""
    values = _values(gold)
    known = named or all(same(values[0], value) for value in values)  # 0.56 = 56 %
    return known and any(same(value, answer) for value in values)


def _values_agree(gold, answer) -> bool:
    return bool(gold and answer) and all(any(same(g, a) for g in gold) for a in answer)


def _both(gold, answer) -> bool:
    """The same relations, each up to a factor and to the side on which it is written."""
    one, other = _relations(gold), _relations(answer)
    if one is None or other is None or len(one) != len(other):
        return False
    left = list(other)
    for relation in one:
        partner = next((i for i, r in enumerate(left) if _equivalent(relation, r)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _is_equation(node) -> bool:
    return set(node[2]) <= {"=", "in", "approx"}


def _name(node):
    """The name that an equation such as x = 5 or f(x) = 2x starts with, else None."""
    first = node[1][0]
    if not _is_equation(node):
        return None
    names = first[1] if first[0] in ("tuple", "list") else [first]
    return first if all(_is_name(name) for name in names) else None


def _is_name(node) -> bool:
    return node[0] == "text" or (_is_value(node) and sympified(node[1]).is_Symbol)


def _values(node) -> list:
    """What an equation says that its name is: every member, as x = 2 + 3 = 5 must hold throughout.

    A rounded member is no value of its own, but must be near the one before. Empty where it is not.
    """
    members, signs = list(node[1]), list(node[2])
    if _name(node) is not None:
        members, signs = members[1:], signs[1:]
    values = [members[0]]
    for sign, before, member in zip(signs, members, members[1:], strict=False):
        if sign != "approx":
            values.append(member)
        elif not _near(before, member):
            return []
    return values


def _near(value, rounded) -> bool:
    a, b = (_with_unit(node)[0] for node in (value, rounded))
    if not (_is_value(a) and _is_value(b)):
        return False
    with mpmath.workdps(30):
        x, y = (evaluate(sympified(node[1]), {}) for node in (a, b))
        return bool(abs(_float(x) - _float(y)) <= _float(ROUNDED) * abs(_float(x)))


def _inequalities(node) -> bool:
    return node[0] == "list" and any(m[0] == "relation" and not _is_equation(m) for m in node[1])


def _relations(node):
    """(sign, left, right) of every pair of neighbours, > turned to <; None where a side is no value."""
    if node[0] == "list" and node[2] != "or" and all(m[0] == "relation" for m in node[1]):
        parts = [_relations(member) for member in node[1]]
        return None if None in parts else list(itertools.chain.from_iterable(parts))
    if node[0] != "relation":
        return None
    triples = zip(node[2], node[1], node[1][1:], strict=False)
    return [(_TURNED[s], b, a) if s[0] == ">" else (s, a, b) for s, a, b in triples]


def _equivalent(gold, answer) -> bool:
    sign, *sides = gold
    its_sign, *its_sides = answer
    if sign != its_sign:
        return False
    if all(same(*pair) for pair in zip(sides, its_sides, strict=True)):
        return True
    if sign in ("=", "!=", "approx") and all(
        same(*pair) for pair in zip(sides, its_sides[::-1], strict=True)
    ):
        return True
    plain = [[_with_unit(n)[0] for n in both] for both in (sides, its_sides)]
    if sign not in _TURNED or not all(_is_value(n) for both in plain for n in both):
        return False
    differences = [f"({left[1]})-({right[1]})" for left, right in plain]
    return proportional(*differences, positive=sign not in ("=", "!="))


# --- sets ------------------------------------------------------------------------------------------


def _same_set(gold, answer) -> bool:
    """Unions and differences by their parts, else as sets of numbers; an inequality is its solutions."""
    if gold[0] == answer[0] in ("union", "meet") and _in_any_order(gold[1], answer[1]):
        return True
    if gold[0] == answer[0] == "minus" and _in_order(gold[1], answer[1]):
        return True
    left, right = as_set(gold), as_set(answer)
    if left is None or right is None:
        return False
    return left == right or (left - right).is_empty is True and (right - left).is_empty is True


def as_set(node):
    """The sympy set of real numbers that a node describes, or None."""
    kind = node[0]
    if kind == "expr" and isinstance(sympified(node[1]), sympy.Set):
        return sympified(node[1])
    if kind == "set" and all(_is_value(m) for m in node[1]):
        return sympy.FiniteSet(*(_number(m) for m in node[1]))
    if kind == "tuple" and len(node[1]) == 2:
        return _interval("(", *node[1], ")")
    if kind == "interval":
        return _interval(*node[1:])
    if kind in ("union", "meet", "minus"):
        parts = [as_set(part) for part in node[1]]
        joined = {"union": sympy.Union, "meet": sympy.Intersection, "minus": sympy.Complement}[kind]
        return None if None in parts else joined(*parts)
    return _solutions(node)


def _interval(opening, left, right, closing):
    if not (_is_value(left) and _is_value(right)):
        return None
    start, end = _number(left), _number(right)
    if not start < end:  # a point such as (2, 1)
        return None
    return sympy.Interval(start, end, opening == "(", closing == ")")


def _number(node):
    """An end of an interval, exact and small enough to be worked with."""
    value = sympified(node[1])
    if value.is_infinite:
        return value.doit()
    exact = evaluate(value, {})
    return sympy.Rational(exact.numerator, exact.denominator) if isinstance(exact, Fraction) else value.doit()


def _solutions(node):
    """The solutions of inequalities between one name and numbers: x < 5, 1 < x <= 3, x < 1 or x > 3."""
    if node[0] == "list":
        parts = [as_set(member) for member in node[1]]
        joined = sympy.Union if node[2] == "or" else sympy.Intersection
        return None if None in parts else joined(*parts)
    if node[0] != "relation":
        return None
    if node[2] == ["in"] and _is_name(node[1][0]):
        return as_set(node[1][1])
    found = sympy.S.Reals
    for sign, left, right in zip(node[2], node[1], node[1][1:], strict=False):
        part = _half_line(sign, left, right)
        if part is None:
            return None
        found = found.intersect(part)
    return found


def _half_line(sign, left, right):
    if sign not in _TURNED or not (_is_value(left) and _is_value(right)):
        return None
    if _is_name(right):
        sign, left, right = _TURNED[sign], right, left
    if not _is_name(left) or sympified(right[1]).free_symbols:
        return None
    end, infinite = _number(right), sympy.oo
    return {
        "<": lambda: sympy.Interval.open(-infinite, end),
        "<=": lambda: sympy.Interval(-infinite, end),
        ">": lambda: sympy.Interval.open(end, infinite),
        ">=": lambda: sympy.Interval(end, infinite),
        "=": lambda: sympy.FiniteSet(end),
        "!=": lambda: sympy.S.Reals - sympy.FiniteSet(end),
    }[sign]()


# --- values ----------------------------------------------------------------------------------------


def same_value(gold: str, answer: str) -> bool:
    """Whether two expressions have the same value, at every point where they have names."""
    wanted, given = sympified(gold), sympified(answer)
    if wanted == given:
        return True
    if not all(isinstance(x, sympy.Expr) for x in (wanted, given)):
        return False
    try:
        return _equal_at_points(wanted, given)
    except Undecided:
        if _sorted(wanted) == _sorted(given):
            return True
        return _prime_powers(wanted) is not None and _prime_powers(wanted) == _prime_powers(given)
    except Unknown:
        return _equal_by_sympy(wanted, given)


def _equal_by_sympy(wanted, given) -> bool:
    """Integrals, limits, infinite sums: worked out by sympy, compared by math-verify where that fails."""
    from math_verify import verify

    done = wanted.doit(), given.doit()
    try:
        return _equal_at_points(*done)
    except (Undecided, Unknown):
        return verify(*done, timeout_seconds=None)


def _equal_at_points(wanted, given) -> bool:
    decimal = wanted.has(sympy.Float) or given.has(sympy.Float)
    compared = False
    for point in _points(wanted, given):
        try:
            *pair, digits = _values_at(wanted, given, point)
        except ZeroDivisionError:  # a pole of the gold; one of the answer alone shows elsewhere as well
            continue
        if point and not wanted.has(sympy.I) and _is_complex(pair[0]):
            continue  # outside of where the gold is real
        compared = True
        if not (_round_equal(*pair) if decimal else _equal(*pair, digits)):
            return False
    return compared


def _points(wanted, given):
    """Values for the names; whole numbers where rounding or powers of -1 need them."""
    names = sorted({s for x in (wanted, given) for s in _names(x)}, key=str)
    if not names:
        return [{}]
    if any(map(_whole, (wanted, given))):
        return [{s: Fraction(j * (i + 3) + 2 * i + 5) for i, s in enumerate(names)} for j in range(1, 14)]
    return [dict(zip(names, values, strict=False)) for values in _generic(len(names))]


@functools.cache
def _generic(n: int) -> list[list]:
    """Rows of `n` values that no equation of an answer holds for by chance: below 1, above, negative."""
    with mpmath.workdps(3 * SURE):
        ways = enumerate([(0, 1), (1, 1), (0, -1), (2, 3), (-1, -1)])
        return [
            [shift + sign * abs(mpmath.sin(7 * i + j + 1)) for i in range(n)] for j, (shift, sign) in ways
        ]


def _names(x):
    from sympy.core.function import AppliedUndef

    bound = {s for part in x.atoms(sympy.Sum, sympy.Product) for s in part.variables}
    return (x.free_symbols - bound) | x.atoms(sympy.Derivative, AppliedUndef)


def _whole(x) -> bool:
    rounds = x.has(sympy.floor, sympy.ceiling, sympy.Mod, sympy.factorial, sympy.binomial)
    return rounds or any(p.base.is_negative and p.exp.free_symbols for p in x.atoms(sympy.Pow))


def _values_at(wanted, given, point, *, roughly=True):
    """The two values, and the decimal place up to which they must agree to be equal; exact where fractions.

    Few digits do where the values are far apart, unless they are wanted for more than that.
    """
    sizes: list[float] = []
    with mpmath.workdps(ROUGH):
        rough = [evaluate(x, point, sizes) for x in (wanted, given)]
    digits = int(sum(sizes))
    if all(isinstance(v, Fraction) for v in rough):
        return *rough, 0
    if roughly and digits < ROUGH // 2 and _far_apart(*map(_float, rough)):
        return *rough, digits
    if digits > MOST_DIGITS // 2:
        raise Undecided(f"{digits} digits")
    place = digits + SURE
    with mpmath.workdps(2 * place):
        values = [_float(evaluate(x, point)) for x in (wanted, given)]
        return *(mpmath.mpf(0) if abs(v) < mpmath.mpf(10) ** -place else v for v in values), place


def _far_apart(a, b) -> bool:
    """Whether two values differ already in their first digits: most wrong answers do."""
    return bool(abs(a - b) > max(abs(a), abs(b)) / 1000)


def _equal(a, b, place: int) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    with mpmath.workdps(ROUGH):  # mpmath subtracts exactly and rounds the difference
        difference = abs(_float(a) - _float(b))
        if mpmath.isinf(difference) or mpmath.isnan(difference):
            return bool(a == b)
        return bool(difference <= mpmath.mpf(10) ** -place)


def _round_equal(a, b) -> bool:
    """In 6 decimals and 5 digits, whichever is more."""
    with mpmath.workdps(60 + max(0, *(int(_size(v)) for v in (a, b)))):
        a, b = _float(a), _float(b)
        sizes = [int(floor(mpmath.log10(abs(v)))) for v in (a, b) if v and mpmath.isfinite(v)]
        scale = mpmath.mpf(10) ** max([DECIMALS, *(DIGITS - 1 - size for size in sizes)])
        parts = [(mpmath.nint(mpmath.re(v) * scale), mpmath.nint(mpmath.im(v) * scale)) for v in (a, b)]
        return parts[0] == parts[1]


def _is_complex(value) -> bool:
    if isinstance(value, Fraction):
        return False
    return bool(abs(mpmath.im(value)) > mpmath.mpf(10) ** -20 * (1 + abs(value)))


def proportional(gold: str, answer: str, *, positive: bool) -> bool:
    """Whether one expression is a constant times the other; a `positive` one for inequalities."""
    wanted, given = sympified(gold), sympified(answer)
    if _names(wanted) != _names(given):
        return False
    rates, places = [], []
    for point in _points(wanted, given):
        try:
            *pair, place = _values_at(wanted, given, point, roughly=False)
        except ZeroDivisionError:
            continue
        a, b = pair
        if not a or not b:
            return not a and not b
        exact = all(isinstance(v, Fraction) for v in pair)
        rates.append(a / b if exact else mpmath.fdiv(*map(_float, pair), dps=2 * place))
        places.append(place)
    if not rates or (positive and (_is_complex(rates[0]) or not mpmath.re(_float(rates[0])) > 0)):
        return False
    if wanted.has(sympy.Float) or given.has(sympy.Float):
        return all(_round_equal(rates[0], rate) for rate in rates)
    return all(_equal(rates[0], rate, max(places)) for rate in rates)


# --- evaluation ------------------------------------------------------------------------------------

_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc", "sinh",
    "cosh", "tanh", "coth", "sech", "csch", "asinh", "acosh", "atanh", "gamma", "re", "im", "arg",
    "conjugate", "sign",
})  # fmt: skip
_CONSTANTS = {"Pi": "pi", "Exp1": "e", "EulerGamma": "euler", "GoldenRatio": "phi", "ImaginaryUnit": "j"}


def evaluate(x, point, sizes: list[float] | None = None):
    """The value of a sympy expression: a Fraction where it is rational, else a number of mpmath.

    `point` gives the values of names; `sizes` collects how many digits each part is away from 1. Raises
    Unknown for what is no function of numbers, Undecided beyond the bounds, ZeroDivisionError.
    """
    value = _evaluated(x, point, sizes)
    if sizes is not None:
        sizes.append(abs(_size(value)) + 0.4)
    return value


def _evaluated(x, point, sizes):
    if x in point:
        return point[x]
    if x.is_Rational:
        return Fraction(int(x.p), int(x.q))
    if x.is_Float:
        return Fraction(str(x))
    kind = type(x).__name__
    if kind in _CONSTANTS:
        return +getattr(mpmath, _CONSTANTS[kind])
    if x in (sympy.oo, -sympy.oo):
        return mpmath.inf if x is sympy.oo else -mpmath.inf
    if isinstance(x, sympy.Sum | sympy.Product):
        return _written_out(x, point, sizes)
    if not x.args:
        raise Unknown(f"{kind} has no value")
    parts = [evaluate(part, point, sizes) for part in x.args]
    rule = _RULES.get(kind)
    if rule:
        return rule(*parts)
    if kind not in _FUNCTIONS:
        raise Unknown(f"{kind} is no function of numbers")
    return getattr(mpmath, kind)(*map(_float, parts))


def _written_out(x, point, sizes):
    if len(x.limits) != 1:
        raise Unknown("a sum over several names")
    name, *ends = x.limits[0]
    first, last = (evaluate(end, point) for end in ends)
    if not all(isinstance(end, Fraction) and end.denominator == 1 for end in (first, last)):
        raise Unknown("a sum without whole ends")
    if last - first > MOST_TERMS:
        raise Undecided("a long sum")
    terms = (
        evaluate(x.function, {**point, name: Fraction(k)}, sizes) for k in range(int(first), int(last) + 1)
    )
    return functools.reduce(
        _sum if isinstance(x, sympy.Sum) else _product, terms, Fraction(isinstance(x, sympy.Product))
    )


def _float(value):
    """A number of mpmath; Fractions are rounded to the digits at work."""
    if not isinstance(value, Fraction):
        return value
    return mpmath.fdiv(value.numerator, value.denominator)


def _size(value) -> float:
    """Decimal digits before the point, negative for small numbers, 0 for 0 and infinity."""
    if isinstance(value, Fraction):
        return (value.numerator.bit_length() - value.denominator.bit_length()) * log10(2) if value else 0
    if not value or not mpmath.isfinite(value):
        return 0
    return float(mpmath.mag(value)) * log10(2)


def _exact(value):
    """A Fraction as long as it is small enough to be kept."""
    if (
        isinstance(value, Fraction)
        and max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS
    ):
        return _float(value)
    return value


def _sum(*parts):
    if all(isinstance(p, Fraction) for p in parts):
        return _exact(sum(parts, Fraction()))
    return mpmath.fsum(map(_float, parts))


def _product(*parts):
    if all(isinstance(p, Fraction) for p in parts):
        return _exact(functools.reduce(lambda a, b: a * b, parts, Fraction(1)))
    return functools.reduce(lambda a, b: a * b, map(_float, parts))


def _power(base, exponent):
    if base == 0 and _is_real(exponent) and exponent < 0:
        raise ZeroDivisionError("a power of 0")
    if isinstance(exponent, Fraction):
        whole = exponent.denominator == 1
        if whole and isinstance(base, Fraction) and _bits(base) * abs(exponent.numerator) <= MOST_BITS:
            return base**exponent.numerator
        if whole:
            return _bounded_power(_float(base), exponent.numerator)
        if _is_real(base) and base < 0 and exponent.denominator % 2:  # odd roots of negative numbers are real
            return (-1) ** exponent.numerator * _bounded_power(-_float(base), _float(exponent))
    return _bounded_power(_float(base), _float(exponent))


def _bounded_power(base, exponent):
    """A power whose size is a number of at most 60 bits: towers of powers end here."""
    if base and abs(exponent) * abs(mpmath.log(abs(base))) > mpmath.ldexp(1, 60):
        raise Undecided("a tower of powers")
    return mpmath.power(base, exponent)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _is_real(value) -> bool:
    return isinstance(value, Fraction | mpmath.mpf)


def _factorial(n):
    if isinstance(n, Fraction) and n.denominator == 1 and n >= 0 and n * max(1, _bits(n)) <= MOST_BITS:
        return Fraction(factorial(int(n)))
    if abs(_float(n)) > mpmath.ldexp(1, 50):
        raise Undecided("a large factorial")
    return mpmath.factorial(_float(n))


def _exponential(exponent):
    return _power(+mpmath.e, exponent) if exponent else Fraction(1)


def _logarithm(value, base=None):
    if value == 1 and base != 1:
        return Fraction(0)
    if value == 0:
        raise ZeroDivisionError("the logarithm of 0")
    return mpmath.log(_float(value)) / (1 if base is None else mpmath.log(_float(base)))


def _absolute(value):
    return abs(value)


def _rounded(rule):
    def apply(value):
        if isinstance(value, Fraction):
            return Fraction(rule(value))
        nearest = mpmath.nint(value)
        near = abs(value - nearest) < mpmath.mpf(10) ** (-mpmath.mp.dps // 2)
        return Fraction(
            int(nearest if near else getattr(mpmath, {"floor": "floor"}.get(rule.__name__, "ceil"))(value))
        )

    return apply


def _remainder(value, modulus):
    if isinstance(value, Fraction) and isinstance(modulus, Fraction):
        return value % modulus
    return mpmath.fmod(_float(value), _float(modulus))


def _choose(n, k):
    whole = all(isinstance(v, Fraction) and v.denominator == 1 for v in (n, k))
    if whole and 0 <= k <= n and _bits(n) * min(k, n - k) <= MOST_BITS:
        return Fraction(int(sympy.binomial(int(n), int(k))))
    return mpmath.binomial(_float(n), _float(k))


def _ceiling(value: Fraction) -> int:
    return -((-value.numerator) // value.denominator)


_RULES = {
    "Add": _sum,
    "Mul": _product,
    "Pow": _power,
    "exp": _exponential,
    "log": _logarithm,
    "factorial": _factorial,
    "binomial": _choose,
    "Abs": _absolute,
    "floor": _rounded(floor),
    "ceiling": _rounded(_ceiling),
    "Mod": _remainder,
    "UnevaluatedExpr": lambda value: value,
    "Max": lambda *values: max(values, key=_float),
    "Min": lambda *values: min(values, key=_float),
}


# --- what is too large to compute ------------------------------------------------------------------


def _sorted(x):
    """An expression with its summands and factors in one order."""
    parts = [_sorted(part) for part in x.args]
    return (type(x).__name__, sorted(parts, key=repr) if x.is_Add or x.is_Mul else parts or x)


def _prime_powers(x):
    """A product of powers of whole numbers as {prime: exponent} with its sign; None where it is none."""
    try:
        return _factored(x)
    except (Unknown, Undecided, ZeroDivisionError):
        return None


def _factored(x) -> dict:
    if x.is_Rational and x:
        if max(abs(int(x.p)), int(x.q)).bit_length() > 64:
            raise Undecided("factors of a large number")
        signed = {-1: Fraction(1)} if x < 0 else {}
        return signed | {int(p): Fraction(e) for p, e in sympy.factorrat(abs(x)).items()}
    if x.is_Mul:
        return functools.reduce(_merged, map(_factored, x.args))
    if x.is_Pow:
        exponent = evaluate(x.exp, {})
        factors = _factored(x.base)
        if not isinstance(exponent, Fraction) or (-1 in factors and exponent.denominator != 1):
            raise Unknown("an exponent that is no fraction")
        return _merged({p: e * exponent for p, e in factors.items()}, {})
    raise Unknown("no product of powers")


def _merged(one: dict, other: dict) -> dict:
    total = {p: one.get(p, 0) + other.get(p, 0) for p in one.keys() | other.keys()}
    if -1 in total:
        total[-1] %= 2
    return {p: e for p, e in total.items() if e}
