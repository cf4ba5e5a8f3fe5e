r"""One spelling of many: an answer without the LaTeX that means nothing, and with its unit apart.

Sample: ``\left( -\infty , 2 \right]`` is ``(-\infty,2]``; ``\text{13}`` is ``13``; ``12\,\mathrm{cm}^2`` is ``12`` with
the unit ``cm^2``. Letters of a formula are no units: a unit is a word in ``\text{}``, a known unit of two letters or
more, or a known letter behind a blank. Texts are bounded by the caller.
"""

from __future__ import annotations

import re

_UNICODE = {
    "\u2212": "-",
    "\u2013": "-",
    "\u00d7": "\\times ",
    "\u00b7": "\\cdot ",
    "\u22c5": "\\cdot ",
    "\u00f7": "/",
    "\u03c0": "\\pi ",
    "\u221e": "\\infty ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u2260": "\\ne ",
    "\u222a": "\\cup ",
    "\u2229": "\\cap ",
    "\u2208": "\\in ",
    "\u2205": "\\emptyset ",
    "\u211d": "\\mathbb{R}",
    "\u00b1": "\\pm ",
    "\u2248": "\\approx ",
    "\u221a": "\\sqrt ",
    "\u00b0": "^\\circ ",
    "\u00b2": "^2",
    "\u00b3": "^3",
    "\u03b8": "\\theta ",
    "\u20ac": "\\$",
    "\u00a3": "\\$",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u2019": "'",
}
_TRANSLATED = str.maketrans(_UNICODE)
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut)(?![A-Za-z])\s*|(?<!\\)\\[!;:>]|(?<!\\)~"
)
_DOUBLED = re.compile(r"\\\\(left|right|[dt]?frac|sqrt|pi|le|leq|ge|geq|infty|cdot|times|text|cup|in)(?![A-Za-z])")
_SEPARATORS = re.compile(r"(?<=\d)(?:\{,\}|\\,|,\\!\s?|\\!,|\{\\,\}| ?\{ *, *\})(?=\d{3}(?!\d))")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_BLANK_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|sl|up)?|mathrm|mathbf|mathit|mathsf|mathtt|mathcal|boldsymbol|bm|mbox|hbox|rm|bf"
    r"|operatorname\*?|emph|textcolor\{[a-z]+\}|color\{[a-z]+\}|underline|bold)\s*\{([^{}]*)\}"
)
_JOIN = re.compile(r"\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|\\text\{[\s,]*(or|and)[\s,]*\}")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant|le)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant|ge)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|emptyset|O)(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace|rbrace)(?![A-Za-z])"), lambda match: "\\{" if "l" in match[0][1] else "\\}"),
    (re.compile(r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:R|reals|Reals)(?![A-Za-z])"), r"\\mathbb{R}"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])|\\degrees?(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\\infin(?![A-Za-z])|\+\s*\\infty|\binf(?:inity)?\b"), r"\\infty "),
)
_BLANKS = re.compile(r"(?<!\\)\\[, ]|\\q?quad|\s+")
_TIGHT = re.compile(r" *([-+*/^=<>()\[\]{}|,;_]) *")
_WORD_STARTS = re.compile(r" (?=\\(?!text)[A-Za-z])")
_WORD_ENDS = re.compile(r"(\\[A-Za-z]+) (?![A-Za-z])")

_ALIASES = {
    "cm": "centimeter centimetre cms",
    "mm": "millimeter millimetre",
    "km": "kilometer kilometre kms",
    "m": "meter metre",
    "ft": "foot feet",
    "in": "inch inches",
    "yd": "yard",
    "mile": "mi",
    "kg": "kilogram kilo",
    "g": "gram gm",
    "mg": "milligram",
    "lb": "pound lbs",
    "oz": "ounce",
    "ton": "tonne",
    "L": "liter litre l",
    "ml": "milliliter millilitre mL",
    "s": "second sec",
    "min": "minute mins",
    "h": "hour hr hrs",
    "day": "",
    "week": "wk",
    "month": "",
    "year": "yr",
    "dollar": "usd bucks",
    "cent": "",
    "euro": "",
    "degree": "deg",
    "rad": "radian",
    "mph": "",
    "kmph": "kph",
    "Hz": "hertz",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "A": "amp ampere",
    "K": "kelvin",
    "Pa": "pascal",
    "eV": "",
    "erg": "",
    "mol": "mole",
    "sq": "square",
    "cubic": "cu",
    "unit": "",
}
_KNOWN_UNITS = {
    word: unit for unit, aliases in _ALIASES.items() for name in (unit, *aliases.split()) for word in (name, f"{name}s")
}
_PREFIXES = {
    f"{prefix}{unit}" for prefix in "nkMGcdm" for unit in ("m", "g", "s", "J", "W", "V", "A", "Hz", "N", "Pa", "eV")
}
_LONE_UNITS = frozenset("msghLNJWVAKCF")
_NO_UNIT_WORDS = (
    "and or not no to maybe perhaps about either neither nor between least most more less than possibly if when where"
    " for all any is are but except otherwise some every mod base sin cos tan log ln exp sqrt pi"
)
_NO_UNITS = frozenset(_NO_UNIT_WORDS.split())
_TEXT_UNIT = re.compile(r"\s*\\text\{([^{}]*)\}(?:\^\{?(-?\d)\}?)?\s*$")
_RATE = re.compile(r"(?:\s[A-Za-z]+|[A-Za-z]{2,}|\})/$")
_WORD_UNIT = re.compile(r"(?<=[\d\s)}%./])(?<!\\)([A-Za-z]+)\.?(?:\^\{?(-?\d)\}?)?\s*$")
_FRACTION_UNIT = re.compile(r"\s*\\frac\{\\text\{([^{}]*)\}(?:\^\{?\d\}?)?\}\{\\text\{([^{}]*)\}(?:\^\{?\d\}?)?\}\s*$")
_DEGREE = re.compile(r"\s*\^\\circ\s*(?:\\text\{\s*)?([CF]?)\s*\}?\s*$")


def tidied(text: str) -> str:
    """An answer without wrappers, sizes and blanks that mean nothing."""
    text = _bare(text.translate(_TRANSLATED).replace('\\"', '"'))
    text = _BOX.sub("", text)
    text = _SIZES.sub("", _SEPARATORS.sub("", _DOUBLED.sub(r"\\\1", text)))
    text = _FONT.sub(_plain_font, text)
    text = _JOIN.sub(lambda match: f" {match[1] or 'or'} ", text)
    text = text.replace("{:}", ":").replace("\\$", "$").replace("\\colon", ":")
    for pattern, spelled in _SYNONYMS:
        text = pattern.sub(spelled, text)
    text = _BLANKS.sub(" ", text)
    if not re.search(r"[(\[]|\\\{", text):
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _TIGHT.sub(r"\1", text).strip().removesuffix(".").strip()
    if _BLANK_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    return _WORD_STARTS.sub("", _WORD_ENDS.sub(r"\1", text))


def _bare(text: str) -> str:
    """Without quotes, stars, dollar signs and full stops around the whole."""
    before = None
    while text != before:
        before = text
        text = text.strip(' \t\r\n`*"').removesuffix(".").removesuffix(",")
        if len(text) > 1 and text[0] == text[-1] == "'":
            text = text[1:-1]
        if len(text) > 1 and text.endswith("$") and not text.endswith("\\$"):
            inner = text.strip("$")
            text = inner if "$" not in inner.replace("\\$", "") or text[0] != "$" else text.replace("$", "")
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(opening) and text.endswith(closing):
                text = text[2:-2]
    return re.sub(r"(?<!\\)\$(?!\s*-?\d+(?:[.,]\d+)*\s*$)", "", text) if text.count("$") > 1 else text


def _plain_font(match: re.Match[str]) -> str:
    """The content of a font command where it is mathematics; words stay in ``\\text{}``."""
    content = match[1].replace("\\ ", " ")
    is_text = match[0].startswith(("\\text", "\\mbox", "\\hbox", "\\mathrm", "\\rm", "\\operatorname"))
    if re.fullmatch(r"\s*[A-Za-z]?\s*", content) and not (is_text and content.strip() in _LONE_UNITS):
        return f" {content.strip()} "
    if not re.search(r"[A-Za-z]{2}|^\s*[A-Za-z]\s*$", content) or content.strip().startswith("("):
        return f" {content} "
    if content.strip() in ("sin", "cos", "tan", "ln", "log", "arcsin", "arccos", "arctan", "max", "min", "gcd", "lcm"):
        return f"\\{content.strip()} "
    return f"\\text{{{' '.join(content.split())}}}"


def without_unit(text: str) -> tuple[str, str]:
    """A tidied answer without its unit, and the unit's name; an unknown word is the unit ``?``."""
    units: list[str] = []
    if text.startswith(("$", "-$", "+$")):
        text, units = text.replace("$", "", 1).strip(), ["dollar"]
    elif text.endswith("$"):
        text, units = text[:-1].strip(), ["dollar"]
    for _ in range(8):
        shorter = _last_unit_off(text, units)
        if shorter is None or not shorter.strip():
            break
        text = shorter.strip().removesuffix("\\cdot").rstrip(" *")
        if text.endswith("/") and units:
            units[0] = f"/{units[0]}"
            text = text[:-1].rstrip()
    return text, " ".join(dict.fromkeys(units))


def _last_unit_off(text: str, units: list[str]) -> str | None:
    """The text before its last unit, which is put in front of ``units``; None without one."""
    if match := _DEGREE.search(text):
        units.insert(0, f"degree{match[1]}")
        return text[: match.start()]
    if match := _FRACTION_UNIT.search(text):
        units.insert(0, f"{_unit_name(match[1])} /{_unit_name(match[2])}")
        return text[: match.start()]
    match = _TEXT_UNIT.search(text)
    if match is not None:
        words = re.findall(r"[A-Za-z%]+|/", match[1])
        if not words or any(word.lower() in _NO_UNITS for word in words) or re.search(r"\d", match[1]):
            return None
        units.insert(0, _named(" ".join(_unit_name(word) for word in words), match[2]))
        return text[: match.start()]
    match = _WORD_UNIT.search(text)
    if match is None or match[1].lower() in _NO_UNITS or match[1].lower() == "percent":
        return None
    word, before = match[1], text[: match.start(1)]
    is_known = word in _KNOWN_UNITS or word in _PREFIXES
    if len(word) > 1:
        is_unit = is_known or (len(word) > 2 and before.endswith((" ", "}")))
    else:
        is_unit = word in _LONE_UNITS and (before.endswith(" ") or (match[2] in ("2", "3") and before[-1:].isdigit()))
    if is_unit or (is_known and _RATE.search(before)):
        units.insert(0, _named(_unit_name(word), match[2]))
        return before
    return None


def _named(unit: str, power: str | None) -> str:
    return f"{unit}^{power}" if power else unit


def _unit_name(word: str) -> str:
    if word in _KNOWN_UNITS or word.lower() in _KNOWN_UNITS:
        return _KNOWN_UNITS.get(word) or _KNOWN_UNITS[word.lower()]
    return word if word in _PREFIXES or word in ("C", "F", "/") else "?"
