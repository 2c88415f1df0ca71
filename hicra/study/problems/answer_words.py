r"""Words in answers: which runs of letters are text and which are products, and what is a unit.

The rule (docs/grading.md gives it with examples). In a run of letters, `ABC`, `xy` or `Evelyn`, is text
- a run in \text{} or another font for words, of two letters or more;
- a run with a capital first and lower case after it, of three letters or more;
- capitals alone, two or more (points, outcomes of coins, DNE);
- a run that repeats a letter: products write a power;
- three letters or more with a vowel and a letter that is no usual variable beside it;
- a short word of the list below.
Everything else is a product. Inside a longer expression (`2RC+R+C`) only a run of four letters or more
that is not in alphabetical order, has a vowel and a letter that is no usual variable is a word.
"""

from __future__ import annotations

import re

from hicra.study.problems.answer_latex import FUNCTIONS, Prose

_SHORT = frozenset({
    "no", "on", "or", "and", "yes", "the", "not", "all", "any", "one", "two", "six", "ten", "odd",
    "max", "min", "if", "is", "in", "at", "by", "to", "of",
})  # fmt: skip
_VARIABLES = frozenset("abcdiuvwxyz")  # letters that a product is often made of
_GREEK_NAMES = frozenset({"alpha", "beta", "gamma", "theta", "lambda", "sigma", "omega", "delta", "infinity"})

# Spelled-out units and their signs, so that "5 centimeters" is 5 cm. Nothing is converted.
_UNITS = {
    "cm": "centimeter centimetre", "mm": "millimeter millimetre", "km": "kilometer kilometre",
    "m": "meter metre", "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "oz": "ounce", "l": "liter litre",
    "ml": "milliliter millilitre", "gal": "gallon", "hr": "hour h", "min": "minute", "s": "second sec",
    "degree": "deg", "dollar": "usd buck", "cent": "¢", "euro": "eur", "%": "percent percentage pct",
    "hz": "hertz", "j": "joule", "n": "newton", "w": "watt", "v": "volt",
}  # fmt: skip
_SIGNS = {name: sign for sign, names in _UNITS.items() for name in names.split()}
_RATES = {"mph": "mi/hr", "kph": "km/hr", "kmh": "km/hr"}
_ABBREVIATIONS = frozenset({
    "cm", "mm", "km", "ft", "in", "yd", "mi", "kg", "mg", "lb", "lbs", "oz", "ml", "gal", "hr", "hrs",
    "min", "sec", "mph", "kph", "kmh", "sq", "cu", "nm", "hz", "khz", "mhz", "ev", "kev", "mev", "kw",
    "kj", "kn", "rpm", "deg", "rad", "usd", "eur", "am", "pm",
})  # fmt: skip
LIKE_PRODUCTS = frozenset({"hr", "in", "am", "pm", "nm", "ev", "cu", "sq", "mi", "oz", "min", "deg"})
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_NO_UNIT = frozenset({
    "or", "and", "not", "no", "if", "is", "are", "at", "than", "more", "less", "least", "most", "about",
    "approximately", "around", "where", "for", "when", "except", "only", "any", "all", "some", "other",
    "otherwise", "unless", "but", "maybe", "possibly", "between", "to", "from", "because", "since",
    "as", "with", "by", "answer", "wrong", "correct", "incorrect", "false", "true", "yes", "undefined",
    "infinite", "the", "i", "think",
})  # fmt: skip
MOST_WORDS = 4  # of a unit


def is_text(run: str) -> bool:
    """Whether a run of letters that stands alone is text and no product."""
    low = run.lower()
    if len(run) < 2 or low in FUNCTIONS or low in _GREEK_NAMES:
        return False
    if low in _SHORT or run.isupper() or len(set(low)) < len(low):
        return True
    return len(run) > 2 and (run.istitle() or (run.islower() and _speaks(low)))


def is_word(run: str) -> bool:
    """Whether a run of letters inside an expression is a word and no product."""
    low = run.lower()
    if low in FUNCTIONS or low in _GREEK_NAMES or not (run.islower() or run.istitle()):
        return False
    return len(run) > 3 and _speaks(low) and list(low) != sorted(low)


def _speaks(low: str) -> bool:
    return bool(set(low) & set("aeiou")) and not set(low) <= _VARIABLES


def is_unit_word(run: str) -> bool:
    """Whether a bare run of letters after a number can be its unit: `cm`, `dollars`, not `ab`."""
    return run.lower() in _ABBREVIATIONS or is_word(run)


def unit(text: str) -> str:
    r"""A unit in one spelling: `\text{ square feet}` and `ft^{2}` are `ft^2`. Raises Prose for a sentence.

    >>> unit(r"\text{ miles per hour}"), unit(r"\text{mph}"), unit(r"\text{ right triangles}")
    ('mi/hr', 'mi/hr', 'right triangle')
    """
    plain = re.sub(r"\\text|\\cdot|[{}.~]", " ", text.lower()).replace("p m", "pm").replace("a m", "am")
    plain = re.sub(r"\s*\^\s*(-?\s*[0-9])\s*", r"^\1 ", plain)
    plain = re.sub(r"\bper\b|\ba\b(?= hour| minute| second| day)", "/", plain)
    words = re.findall(r"[a-z%]+", plain)
    if len(words) > MOST_WORDS or _NO_UNIT & set(words) or re.search(r"(?:^|[\s/])[0-9]", plain):
        raise Prose(f"{text!r} is no unit")
    return "/".join(_product(part.split()) for part in plain.split("/"))


def _product(words: list[str]) -> str:
    power, named = "", []
    for word in words:
        if word in _POWERS:
            power = _POWERS[word]
        else:
            base, caret, exponent = word.partition("^")
            named.append(_sign(base) + caret + exponent)
    return " ".join(named) + power


def _sign(word: str) -> str:
    single = word.removesuffix("s") if len(word) > 2 else word
    return _RATES.get(word) or _SIGNS.get(word) or _SIGNS.get(single) or single


def fold(text: str) -> str:
    r"""Text as it is compared: no fonts, one case, one space, no punctuation or quotes around it."""
    plain = re.sub(r"\\text(?![A-Za-z])|[{}\"`]|\\(?=[\"'%$&#_])", "", text).casefold()
    plain = re.sub(r"\s*,\s*", ", ", re.sub(r"\s+", " ", plain)).strip(" .,;:!?")
    return re.sub(r"^\(\s*(\w)\s*\)$", r"\1", plain)
