r"""Maths answers as text: `normalise` gives the canonical form, `as_number` the exact value.

Only text and exact rational arithmetic: nothing here evaluates what a model wrote. `normalise(normalise(x))` is
`normalise(x)`. Numbers become `n` or `p/q` in lowest terms, whatever they were written as (`1{,}000`, `.50`, `\frac12`,
`3\frac{1}{2}`, `2.5\times10^3`, `1.2 million`); LaTeX spacing, sizes, dollars, degrees, percent signs, units and a
leading `x =` or `f(x) =` are dropped; a list keeps its order. Space between digits is kept (`1 2` is not 12), and so is
a space that makes a list of `1, 234`. Words after a number are dropped if they are units, or a thing counted: anything
in `\text{}` that does not change the value, and one plural outside it.

Not handled: units are dropped and not converted (5 cm and 5 m have one form), algebra (`x+1` and `1+x` have two: see
`harness.grading.symbolic`), decimal commas, numbers as words.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 2000
"""Characters; anything longer is not an answer, and comes back from `normalise` as it is."""
MAX_PASSES = 30
"""Texts that still change after so many passes (wrappers nested that deep) keep the form they came in."""

_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "*": r"\cdot ", "π": r"\pi ",
        "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ",
        "√": r"\sqrt ", "²": "^2", "³": "^3", "½": r"\frac12", "¼": r"\frac14", "¾": r"\frac34", "，": ",",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "~": " ", "\0": "", "≈": r"\approx ",
    }
)  # fmt: skip
_TEXT = (
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname)"
    r"\s*\{((?:[^{}]|\^\{[23]\})*)\}"
)
_POWER = r"(?:\s*\^\s*\{?[23]\}?)?"
_LETTERS_ONLY_IN_COMMANDS = re.compile(r"(?:\\[a-zA-Z]+|[^a-zA-Z\\])+")
_TEXT_UNIT = re.compile(rf"^(.*[0-9}}i])\s*{_TEXT}{_POWER}$", re.DOTALL)
_WORD_UNIT = re.compile(rf"^(.*[0-9}}])\s+([a-zA-Z][a-zA-Z.\s]*){_POWER}$", re.DOTALL)
_SHORT_UNIT = re.compile(
    rf"^(.*[0-9}}])\s*(?:cm|mm|km|kg|mg|ft|in|mi|lbs?|oz|hrs?|mins?|secs?|mph|yd|ml|mL){_POWER}$", re.DOTALL
)
_UNITS = frozenset(
    re.findall(
        r"\S+",
        """
        mm cm dm m km in ft yd mi inch inches foot feet yard yards mile miles meter meters metre metres
        millimeter millimeters centimeter centimeters kilometer kilometers centimetre centimetres kilometre kilometres
        mg g kg lb lbs oz gram grams kilogram kilograms pound pounds ounce ounces ton tons tonne tonnes
        ms s sec secs second seconds min mins minute minutes h hr hrs hour hours day days week weeks month months
        yr yrs year years l ml liter liters litre litres milliliter milliliters gal gallon gallons quart quarts pint
        pints cup cups tablespoon tablespoons teaspoon teaspoons cc acre acres hectare hectares
        dollar dollars cent cents usd eur euro euros gbp rupee rupees yen
        degree degrees deg radian radians rad percent mph kmh kph n j w v k c f newton newtons joule joules watt watts
        volt volts hz hertz celsius fahrenheit kelvin unit units square sq cubic cu per
        """,
    )
)
_COUNTED = frozenset(
    ("way", "people", "person", "child", "children", "man", "men", "woman", "women", "page", "point", "digit")
)
_CHANGES_VALUE = re.compile(
    r"half|halves|halved|thirds?|quarters?|[a-z]+(?:f|[xnr]|igh|ieh?|ven|el[fv]|ie|red|and|ion)ths?|"
    r"ones?|twos?|threes?|fours?|fives?|six(?:es)?|sevens?|eights?|nines?|tens?|eleven|twelve|zeros?|[a-z]+teen|[a-z]+ty|"
    r"dozens?|scores?|hundreds?|thousands?|[a-z]*illions?|pairs?|twice|doubled?|tripled?|"
    r"squared|cubed|squares|cubes|roots?|powers?|factorial|logs?|pi|sqrt|infinity|minus|plus|times|over|by|divided|"
    r"multiplied|negative|less|more|fewer|than|is|are|was|not|no|none|nor|or|and|but|except|without|wrong|of|to|from|"
    r"mod|modulo|base|am|pm"
)
_GREEK = (
    r"\\(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|"
    r"chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega)(?![a-zA-Z])"
)
_SUBSCRIPT = r"(?:\s*_\s*(?:[0-9a-zA-Z]|\{[^{}=]*\}))?"
NAME = rf"(?:[a-zA-Z]|{_GREEK}){_SUBSCRIPT}(?:\s*\(\s*[a-zA-Z]\s*\))?"
"""A symbol, or a function of one: what may stand before `=` without being a part of the answer."""
_PREFIX = re.compile(rf"^{NAME}\s*(?:=|\\in(?![a-zA-Z]))(?!=)")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|in|approx|sim|simeq|cong|equiv)(?![a-zA-Z])")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])|(?<!\\)\\!\s*", ""),
        (r"\\\\\[[0-9.]+\s*[a-z]{2}\]", r"\\\\"),
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\\times(?![a-zA-Z])", r"\\cdot"),
        (r"(?<=[0-9])\{,\}(?=[0-9])", ","),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degrees?(?![a-zA-Z])|\\?%", ""),
        (r"\\frac\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9a-zA-Z])\s*(?=\{)", r"\\frac{\1}"),
        (r"\\frac\s*(\{[^{}]*\})\s*([0-9a-zA-Z])", r"\\frac\1{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![\\a-zA-Z])(?:infinity|infty)(?![a-zA-Z])", r"\\infty "),
        (r"([\^_])\s*([0-9a-zA-Z])(?![0-9a-zA-Z])", r"\1{\2}"),
    )
)
_LAST_WORDS = re.compile(r"(?:\\(?:text|textrm|textbf|mathrm|mbox)\s*\{\s*|[0-9}]\s+)([a-zA-Z][a-zA-Z\s]*)\}?[\s.$]*\Z")
_HALF_OF_DAY = re.compile(r"(?<=[0-9])\s*([aApP])\.?\s*[mM]\.?$")
_DECIMAL = r"(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"(?:[+-]\s*)?{_DECIMAL}"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:"
    rf"(?P<value>{_DECIMAL})(?:[eE](?P<e>[+-]?[0-9]{{1,3}})"
    rf"|\s*\\cdot\s*10\s*\^\s*(?:\{{\s*(?P<power>[+-]?[0-9]{{1,3}})\s*\}}|(?P<digit>[0-9]))"
    rf"|\s*(?P<scale>hundred|thousand|million|billion|trillion))?"
    rf"|(?P<whole>[0-9]+)?\s*\\frac\s*\{{\s*(?P<top>{_SIGNED})\s*\}}\s*\{{\s*(?P<bottom>{_SIGNED})\s*\}}"
    rf"|(?:(?P<whole2>[0-9]+)\s+)?(?P<top2>{_DECIMAL})\s*/\s*(?P<bottom2>{_DECIMAL}))"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SPACED_THOUSANDS = re.compile(r"([+-]?[1-9][0-9]{0,2})((?:\s[0-9]{3})+)")
_OPEN, _CLOSE = "([{", ")]}"


def normalise(answer: str) -> str:
    """The canonical form of an answer: equal forms mean equal answers, and the form of a form is itself."""
    if len(answer) > MAX_LENGTH:
        return answer
    text = answer
    for _ in range(MAX_PASSES):
        rewritten = _rewrite(text)
        if rewritten == text:
            return text
        text = rewritten
    return answer


def as_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number: also a fraction, mixed number, power of ten, or with "million"."""
    if len(text) > MAX_LENGTH:
        return None
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and "," not in text:
        text = text[1:-1].strip()
    if spaced := _SPACED_THOUSANDS.fullmatch(text):
        text = spaced[1] + "".join(spaced[2].split())
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    if part["value"] is not None:
        exponent = int(part["e"] or part["power"] or part["digit"] or _SCALES.get(part["scale"] or "", 0))
        value = _decimal(part["value"]) * Fraction(10) ** exponent
    else:
        bottom = _decimal(part["bottom"] or part["bottom2"])
        if bottom == 0:
            return None
        ratio = _decimal(part["top"] or part["top2"]) / bottom
        whole = part["whole"] or part["whole2"]
        if whole is not None and ratio < 0:
            return None
        value = ratio + int(whole or 0)
    return -value if part["sign"] == "-" else value


def _decimal(text: str) -> Fraction:
    # Fraction(str) accepts exponents and slashes: the patterns above let neither through.
    return Fraction(re.sub(r"[,\s]", "", text).rstrip("."))


def _rewrite(text: str) -> str:
    """One pass; `normalise` repeats it until nothing changes."""
    text = text.translate(_CHARACTERS).strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _HALF_OF_DAY.sub(lambda match: f"{match[1]}m".lower(), text.strip())
    text = _unwrap(text)
    text = _drop_unit(text)
    text = re.sub(_TEXT, lambda match: re.sub(r"\b(?:or|and)\b", ",", match[1]), text)
    text = re.sub(r"(?<=[0-9}])\s+(?:or|and)\s+(?=[-+0-9\\])", ", ", text)
    text = text.strip().rstrip(".,;: \t\n") if not text.rstrip().endswith("\\ ") else text
    prefix = _PREFIX.match(text)
    if prefix and not _RELATION.search(outside_brackets(text[prefix.end() :])):
        text = text[prefix.end() :].strip()
    if choice := re.fullmatch(r"\(([A-J])\)|([A-J])[.):]", text):
        return choice[1] or choice[2]
    if as_number(text) is not None:
        return _element(text)
    return ", ".join(_element(part) for part in split_list(text))


def _unwrap(text: str) -> str:
    """Without a `\\boxed{...}` or braces around everything."""
    match = re.match(r"(?:\\(?:boxed|fbox)\s*)?\{", text)
    if match and closes_at_end(text, match.end() - 1):
        return text[match.end() : -1].strip()
    return text


def _drop_unit(text: str) -> str:
    """`5 \\text{ cm}^2` and `5 square units` without what follows the number."""
    if match := _TEXT_UNIT.match(text):
        body, words = match[1], match[2]
        if "\\text" in body or _RELATION.search(body) or not re.search(r"[0-9]|\\pi", body):
            return text
    elif match := _WORD_UNIT.match(text):
        body, words = match[1], match[2]
        if len("".join(words.split())) < 3 or not _LETTERS_ONLY_IN_COMMANDS.fullmatch(body):
            return text
    elif match := _SHORT_UNIT.match(text):
        return match[1] if _LETTERS_ONLY_IN_COMMANDS.fullmatch(match[1]) else text
    else:
        return text
    return body.strip() if is_unit(words, spelt_as_text=text.endswith("}") or "\\" in text[len(body) :]) else text


def is_unit(words: str, *, spelt_as_text: bool) -> bool:
    """Whether words after a number leave its value alone: units, or a thing counted (freer inside `\\text{}`)."""
    bare = re.sub(r"(?<=[a-zA-Z])\s*\^\s*\{?[23]\}?|(?<=[a-zA-Z])[23](?![0-9])", "", words)
    if not re.fullmatch(r"\s*[a-zA-Z]+(?:[\s.-]+[a-zA-Z]+|\s*/\s*[a-zA-Z]+)*[\s.]*", bare):
        return False
    named = re.findall(r"[a-z]+", bare.casefold())
    others = [word for word in named if word not in _UNITS and word not in _COUNTED]
    if any(len(word) < 2 or _CHANGES_VALUE.fullmatch(word) for word in others):
        return False
    return spelt_as_text or not others or (len(others) == 1 and others[0].endswith("s") and len(others[0]) > 3)


def other_units(answer: str, reference: str) -> bool:
    """Whether both texts end in words and these say different things counted; known units are not told apart."""
    ends = [_LAST_WORDS.search(text) for text in (answer, reference)]
    words = [re.findall(r"[a-z]+", end[1].casefold()) for end in ends if end]
    if len(words) < 2 or any(set(part) <= _UNITS for part in words):
        return False
    first, second = (" ".join(word.removesuffix("s") for word in part) for part in words)
    return first != second


def _element(text: str) -> str:
    """The form of one member of a list: a number, a bracketed list of them, or an expression without spaces."""
    text = text.strip()
    number = as_number(text)
    if number is not None:
        return str(number)
    opening = 2 if text.startswith("\\{") else 1
    if text[opening - 1 : opening] in tuple(_OPEN) and closes_at_end(text, opening - 1):
        closing = 2 if text.endswith("\\}") else 1
        parts = split_list(text[opening:-closing])
        if len(parts) > 1:
            inner = ",".join(_expression(part) for part in parts)
            return text[:opening] + inner + text[-closing:]
    return _expression(text)


def _expression(text: str) -> str:
    number = as_number(text)
    if number is not None:
        return str(number)
    text = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", "\\1\0", text.strip())  # `\pi r` is not `\pir`
    text = re.sub(r"(?<=[0-9.])\s+(?=[0-9.])|(?<=[0-9],)\s+(?=[0-9])", "\0", text)
    text = re.sub(r"\s+", "", text).replace("\0", " ")
    return text.casefold() if re.fullmatch(r"[a-zA-Z]{3,}", text) else text


def split_list(text: str) -> list[str]:
    """The parts of a text between commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return parts


def outside_brackets(text: str) -> str:
    """The text without its brackets and what is in them."""
    depth, outside = 0, []
    for character in text:
        depth += character in _OPEN
        if depth <= 0:
            outside.append(character)
        depth -= character in _CLOSE
    return "".join(outside)


def nesting(text: str) -> int:
    """The deepest bracket of a text."""
    depth = deepest = 0
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def closes_at_end(text: str, opening: int) -> bool:
    """Whether the bracket at `opening` is closed by the last character; intervals may mix their brackets."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] in _OPEN) - (text[place] in _CLOSE)
        if depth == 0:
            return place == len(text) - 1
    return False
