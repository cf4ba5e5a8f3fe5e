r"""The answer of a text, and the mark that pointed at it. One order of marks holds for every verifier:

1. Only the text behind the last ``</think>`` is read. A ``<think>`` that never ends leaves nothing.
2. A next question (``Question:``, ``User:``, ``<|im_end|>``) behind an answer ends the text.
3. ``<answer>...</answer>``, the last one; a box inside it is its answer.
   ``The final answer is ... I hope it is correct`` of Minerva's prompt has the same rank.
4. ``\boxed{...}`` or ``\fbox{...}``, the last one. Boxes with nothing but ``,``, ``and`` or ``or`` between them are one
   list, also with up to three words before the ``and``. A box that is empty or never closes means no answer.
   ``Answer: D`` behind a boxed formula adds its letter.
5. The later of two: the marks (``####``), unless a heading follows; and the words ``answer:``, ``answer is``.
6. Unless a mark is required, the last formula or number of the text's tail.

Nothing is tried before the mark that was found. Sample: ``"... #### 42\n#### Check"`` has the answer ``42`` by the mark
``####``. The cost is linear in the text; at most :data:`WINDOW_CHARS` characters behind a mark are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_CHARS = 500
"""A longer answer is no answer; of a text without a mark, the tail that is searched."""
WINDOW_CHARS = 2_000
"""Characters read behind a mark."""
MAX_BOXES = 16
"""More boxes in a row are no answer."""
MAX_HEADINGS = 64
"""Headings in a row that are passed over on the way to a mark."""
DEFAULT_MARKS = ("####",)
"""Texts before an answer, next to the words ``answer:`` and ``answer is``."""

_THINKING = ("think", "thinking", "reasoning", "thought")
_NEXT_QUESTION = re.compile(
    r"\n[ \t*#]{0,8}(?:Question|Problem|Exercise|Instruction|User|Human|Q)\b[^\n:]{0,12}:"
    r"|<\|(?:im_end|im_start|endoftext|eot_id|end)\|>|</s>"
)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]{0,8}")
_BARE_BOX = re.compile(r"[^\s\\{}$,;]+")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[()\[\],;! ]|\\q?quad(?![A-Za-z])|(?:\\text\{[\s,]*)?(?:and|or)\b[\s,]*\}?"
    r"|\\text\{[^{}]{0,40}\band\s*\}|(?:[a-z]{1,12}\s){1,3}and\b"
    r"|[a-z](?:_\{?\w{1,3}\}?)?\s?=)*+",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\b(?:answer|correct (?:option|choice))\b(?:[ \t*_]{0,8}[:=](?!=)"
    r"|\*{0,2}[ \t]{1,8}(?:is|are|would be|must be|will be|should be|becomes)\b"
    r"(?:[ \t]{1,8}(?:therefore|thus|then|hence|simply))?[ \t]{0,8}:?)",
    re.IGNORECASE,
)
_PHRASE_WORDS = ("answer", "Answer", "ANSWER", "orrect option", "orrect choice")
_HEAD_PHRASE = re.compile(
    r"^[ \t]{0,8}[*#]{1,6}[ \t]{0,8}(?:final[ \t]{1,8})?answer[ \t]{0,8}[*:]{0,3}[ \t]{0,8}\n",
    re.IGNORECASE | re.MULTILINE,
)
_LETTER_LINE = re.compile(r"answer(?:[ \t*]*:|[ \t]+is:?)[ \t*]*\(?([A-J])\)?(?=[\s.*,)]|$)", re.IGNORECASE)
_NEGATION = re.compile(r"[ \t*]*(?:not|never|no longer|neither)\b", re.IGNORECASE)
_HEDGE = re.compile(
    r"\b(?:or|otherwise|maybe|perhaps|possibly|alternatively|either|alternative|unless|depending|else)\b", re.IGNORECASE
)
_HEADING_LINE = re.compile(r"^[ \t]*#{2,6}(?!#).*$", re.MULTILINE)
_CALCULATION = re.compile(r"<<[^<>\n]{0,200}>>")
_SENTENCE_END = re.compile(r"[.!?;](?=[*_`\"')]*\s+[*_\"']*[A-Z(\[#\\])|[.!?](?=[*_`\"'\s]*$)")
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?![A-Za-z({])")
_JOINS = ("or", "and", "to", "and/or")
_OPERATORS = ("+", "-", "*", "/", "^", "x", "\u00d7", "\u00f7", "\u2212", "\\cdot", "\\times", "<", ">", ":")
_HEADING_WORDS = "check solution answer step verification conclusion explanation summary note verify"
_HEADINGS = frozenset(_HEADING_WORDS.split())
_NUMBERED = re.compile(r"\d+[.)]\s+[A-Za-z*]|\d+[.)]\s*$")
_PLAIN = re.compile(r"-?\d{1,100}", re.ASCII)
_CONTINUES = re.compile(r"(?:or|and|to)\b|\d|[-+*/=^<>]\s*[\d(\\$]|[\\({&|?~]")
_LEADING = re.compile(r"[-+\u2212]?\\?\$?[-+\u2212]?(?:\d|\.\d)\S*")
_CHOICE = re.compile(r"\(?[A-J]\)?[.,):]?(?=\s|$)")


class Found(NamedTuple):
    """The answer of a text."""

    text: str | None
    """The answer alone; None when there is none."""
    mark: str
    """``<answer>``, ``box``, a mark such as ``####``, ``answer``; ``tail`` when nothing pointed at it."""
    reason: str = ""
    """Why there is no answer."""


def final_answer(text: str, marks: Sequence[str] = DEFAULT_MARKS, *, require_mark: bool = False) -> Found:
    """The answer of a text by the order of marks above."""
    spoken = _behind_thinking(text)
    if spoken is None:
        return Found(None, "", "the thinking never ends")
    spoken = _before_next_question(spoken, marks)
    start = spoken.rfind("<answer>")
    if start >= 0:
        body = spoken[start + len("<answer>") :].partition("</answer>")[0][:WINDOW_CHARS]
        inner = _boxed(body) or _marked(body, marks)
        return _checked(inner.text if inner else _stripped(body), "<answer>", inner.reason if inner else "")
    found = _hoped(spoken) or _boxed(spoken) or _marked(spoken, marks)
    if found is not None:
        return _checked(found.text, found.mark, found.reason)
    if require_mark:
        return Found(None, "", "no mark")
    return _checked(_last_expression(_tail(spoken[-WINDOW_CHARS:])), "tail", "")


def _hoped(text: str) -> Found | None:
    """The answer in the last sentence of Minerva's prompt; None without that sentence."""
    end = text.rfind("I hope it is correct")
    start = text.rfind("inal answer is", max(0, end - MAX_CHARS), end) if end >= 0 else -1
    answer = text[start + len("inal answer is") : end].strip(" \t\r\n*:.") if start >= 0 else ""
    return Found(_answer_of_line(answer), "final answer") if answer and "\\boxed" not in answer else None


def _tail(text: str) -> str:
    """The end of a text, without calculations, headings and what it says is not the answer."""
    text = _HEADING_LINE.sub("", _CALCULATION.sub("", text))
    for match in reversed(list(_PHRASE.finditer(text))):
        if _NEGATION.match(text, match.end()):
            ended = _SENTENCE_END.search(text, match.end())
            text = text[: match.start()] + (text[ended.end() :] if ended else "")
    tail = text[-MAX_CHARS:]
    return tail.partition("$")[2] if tail.replace("\\$", "").count("$") % 2 and tail.count("$") > 1 else tail


def boxed_content(text: str) -> str | None:
    r"""Inside of the last ``\boxed{...}``; None when there is none, or it does not close in time."""
    last = _last_box(text, len(text))
    return last.content if last else None


def _checked(text: str | None, mark: str, reason: str) -> Found:
    if text is None or not text.strip():
        return Found(None, mark, reason or ("nothing behind the mark" if mark != "tail" else "no answer found"))
    if len(text) > MAX_CHARS:
        return Found(None, mark, "the answer is too long")
    return Found(text.strip(), mark)


def _behind_thinking(text: str) -> str | None:
    """The text behind the last thinking that ended; None when one never ends."""
    if "<" not in text:
        return text
    ends = [(at, len(name) + 3) for name in _THINKING if (at := text.rfind(f"</{name}>")) >= 0]
    end = sum(max(ends, default=(0, 0)))
    opened = max(text.rfind(f"<{name}>") for name in _THINKING)
    return None if opened >= end and opened >= 0 else text[end:]


def _before_next_question(text: str, marks: Sequence[str]) -> str:
    """The text up to the first next question that stands behind an answer."""
    first = _NEXT_QUESTION.search(text)
    if first is None:
        return text
    starts = [match.start() for match in (_BOX.search(text), _PHRASE.search(text)) if match]
    starts += [at for at in (text.find("<answer>"), *map(text.find, marks)) if at >= 0]
    for match in _first(_NEXT_QUESTION.finditer(text), MAX_HEADINGS):
        before = text[: match.start()]
        if match[0][0] == "<" or (any(at < match.start() for at in starts) and _has_answer(before, marks)):
            return before if match[0][0] != "<" or before.strip() else text
    return text


def _has_answer(text: str, marks: Sequence[str]) -> bool:
    window = text[-WINDOW_CHARS:]
    return any(found is not None and found.text for found in (_boxed(window), _marked(window, marks)))


def _first(matches: Iterator[re.Match[str]], count: int) -> Iterator[re.Match[str]]:
    return (match for match, _ in zip(matches, range(count), strict=False))


class _Box(NamedTuple):
    start: int
    end: int
    content: str | None
    """None when it does not close in time."""


def _last_box(text: str, end: int) -> _Box | None:
    """The last box that starts before ``end``."""
    for _ in range(MAX_BOXES):
        end = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        opening = _BOX.match(text, end) if end >= 0 else None
        if opening or end < 0:
            return _box_at(text, end, opening.end()) if opening else None
    return None


def _box_at(text: str, start: int, inside: int) -> _Box:
    if text[inside : inside + 1] != "{":
        bare = _BARE_BOX.match(text, inside)
        return _Box(start, bare.end(), bare[0].rstrip(".")) if bare else _Box(start, inside, None)
    depth = 0
    for at, character in enumerate(text[inside : inside + MAX_CHARS + 2], inside):
        if character in "{}" and text[at - 1] != "\\":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return _Box(start, at + 1, text[inside + 1 : at].strip())
    return _Box(start, inside, None)


def _boxed(text: str) -> Found | None:
    """The last box, or the list that it ends; None without a box."""
    box = last = _last_box(text, len(text))
    if box is None or last is None:
        return None
    if box.content is None:
        return Found(None, "box", "the box never closes")
    contents = [box.content]
    while len(contents) <= MAX_BOXES:
        before = _last_box(text, box.start)
        if before is None or before.content is None or before.end > box.start or box.start - before.end > 80:
            break
        if not _BETWEEN_BOXES.fullmatch(text, before.end, box.start):
            break
        contents.insert(0, before.content)
        box = before
    if len(contents) > MAX_BOXES or not all(contents):
        return Found(None, "box", "an empty box" if len(contents) <= MAX_BOXES else "too many boxes")
    content = contents[0] if len(set(contents)) == 1 else ", ".join(contents)
    behind = text[last.end : last.end + WINDOW_CHARS]
    letters = _LETTER_LINE.findall(behind)
    if letters and letters[-1].isupper() and not _CHOICE.match(content.replace("\\text", "").strip("{} ")):
        content = f"{letters[-1]}) {content}"
    return Found(content, "box")


def _marked(text: str, marks: Sequence[str]) -> Found | None:
    """What stands behind the last mark or phrase; None without one."""
    candidates = [_behind_mark(text, mark) for mark in marks] + [_behind_phrase(text)]
    return max(filter(None, candidates), key=lambda candidate: candidate[1], default=(None, 0))[0]


def _behind_mark(text: str, mark: str) -> tuple[Found, int] | None:
    """What stands behind the last mark that no heading follows."""
    end = len(text)
    for _ in range(MAX_HEADINGS):
        start = text.rfind(mark, 0, end)
        if start < 0:
            return None
        line = text[start + len(mark) : start + len(mark) + WINDOW_CHARS].partition("\n")[0]
        if len(line) > MAX_CHARS and len(line.strip()) > MAX_CHARS:
            return Found("x" * (MAX_CHARS + 1), mark), start
        if not _is_heading(line, mark):
            return Found(_answer_of_line(line), mark), start
        end = start
    return None


def _is_heading(line: str, mark: str) -> bool:
    """True for a line of words, or a numbered one, behind ``####``; a single word is an answer."""
    line = line.strip(" \t*_:.")
    if mark.strip("#") or _PLAIN.fullmatch(line):
        return False
    if _NUMBERED.match(line) or _PHRASE.search(line):
        return True
    words = line.split()
    starts_with_word = bool(words) and bool(re.fullmatch(r"[A-Za-z]{2,}[a-z',:.-]*", words[0]))
    return starts_with_word and (len(words) > 1 or words[0].lower().strip(":.") in _HEADINGS)


def _behind_phrase(text: str) -> tuple[Found, int] | None:
    """What stands behind the last phrase that announces an answer."""
    if not any(word in text for word in _PHRASE_WORDS):
        return None
    last = None
    for match in _PHRASE.finditer(text):
        if not _NEGATION.match(text, match.end()):
            last = match
    head = next(reversed(list(_HEAD_PHRASE.finditer(text))), None)
    if head is not None and (last is None or head.start() > last.start()):
        last = head
    if last is None:
        return None
    window = text[last.end() : last.end() + WINDOW_CHARS]
    content = window.lstrip(" \t*_:").removeprefix("\\\n")
    if not content.strip():
        return Found(None, "answer", "nothing behind the mark"), last.start()
    content = content.lstrip()
    if not content.startswith(("\\[", "$$")):
        content = content.partition("\n")[0]
    return Found(_answer_of_line(content), "answer"), last.start()


def _stripped(text: str) -> str:
    return text.strip(" \t\r\n*_`")


def _answer_of_line(line: str) -> str | None:
    """The answer in a line behind a mark: the line, the formula or number it starts with, or the last one in it."""
    line = line.strip()
    if _PLAIN.fullmatch(line):
        return line
    line = _CALCULATION.sub("", line).strip()
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if line.startswith(opening) and closing in line[2:]:
            return line[2:].partition(closing)[0].strip()
    bold = re.match(r"\*\*([^*]+)\*\*", line)
    if bold and re.search(r"\d|\\|\$", bold[1]):
        line = bold[1]
    line = _stripped(line)
    ended = _SENTENCE_END.search(line)
    line = _stripped(line[: ended.start()] if ended and line[: ended.start()].strip() else line)
    words = [word for word in _WORD.findall(_FORMULA.sub(" ", line)) if word not in ("and", "or")]
    if not words or _CHOICE.match(line):
        return line or None
    leading = _FORMULA.match(line) or _LEADING.match(line)
    if leading:
        rest = line[leading.end() :].strip(" *,")
        is_joined = _CONTINUES.match(rest) or _HEDGE.search(rest)
        return line if is_joined or len(rest.split()) == 1 else leading[0].rstrip(",")
    if re.search(r"[\d$]|\\[([]", line) and not re.match(r"[a-zA-Z]?\s*=|\\", line):
        return _last_expression(line)
    return line


def _last_expression(text: str) -> str | None:
    """The last formula, bold text or number of a text; numbers joined by commas, ``or`` and operators are one."""
    spans = [(match.end(), match.start(), match[0]) for match in _FORMULA.finditer(text)]
    spans += [(m.end(), m.start(), m[1]) for m in _BOLD.finditer(text) if re.search(r"\d", m[1])]
    end, start, formula = max(spans, default=(-1, -1, ""))
    bare = re.sub(r"\S", "\x00", text[:end]) if end > 0 else ""
    run = _last_run(bare + text[max(end, 0) :])
    if run is not None:
        return run
    if end <= 0 or any(character.isdecimal() for character in text[end:]):
        return None
    before = re.search(r"([^\s]+)\s+(?:or|and)\s*$", text[:start])
    if before and re.search(r"[\d$]", before[1]):
        return f"{before[1]} or {formula}"
    return formula


def _last_run(text: str) -> str | None:
    """The last run of characters with a digit, with what joins it on its left."""
    runs = text.split()
    last = next((i for i in range(len(runs) - 1, -1, -1) if re.search(r"\d", runs[i]) and "\x00" not in runs[i]), None)
    if last is None or any(any(c.isdecimal() and not c.isascii() for c in run) for run in runs[last:]):
        return None
    first = last
    while first > 0:
        before = runs[first - 1].strip("*_(")
        is_join = before in _OPERATORS or before.lower() in _JOINS
        if is_join and first > 1 and re.search(r"\d", runs[first - 2]):
            first -= 2
        elif re.fullmatch(r"[-+$\d.,/^*]*\d[,;]?", before):
            first -= 1
        else:
            break
    return " ".join(runs[first : last + 1]).rpartition("=")[2].lstrip(" *_`\"'").rstrip(" *_`\"'.,;:!?")
