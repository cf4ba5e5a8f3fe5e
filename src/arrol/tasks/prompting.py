r"""A row as a prompt: template, system prompt, arguments of the chat template, worked examples in front.

Sample: template ``"Q: {question}\nA:"`` with one example makes of ``9+8*7`` the text ``Q: 2+2\nA: 4\n\nQ: 9+8*7\nA:``.

1. Without a template, chat messages go through the tokenizer's chat template where it has one, and so does a question
   with a system prompt or template arguments. Any other question is the prompt as it stands.
2. An own template holds ``{question}``. Behind ``chat:`` it is the user's message.
3. Examples of a chat are turns. Of a text they are blocks before it, with a blank line between; answers follow the
   filled template, after a blank unless it ends with white space.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from arrol.errors import ConfigError, DataError, ModelError
from arrol.protocols import Tokenizer
from arrol.tasks.base import TEMPLATES, Stream, rng_at
from arrol.tasks.columns import Row
from arrol.verifiers.gold import read_gold

logger = logging.getLogger(__name__)
OWN_CHAT = "chat:"
"""Before an own template that is a user's message."""
RESERVED = ("conversation", "messages", "tokenize", "add_generation_prompt", "chat_template", "return_tensors")
"""Arguments of ``apply_chat_template`` that are ours."""
Messages = list[dict[str, str]]


class WorkedExample(NamedTuple):
    """A question with its answer, shown before a prompt."""

    question: str
    answer: str
    key: str = ""
    """Key of its row; empty for an example that the user wrote."""


class PromptWriter:
    """Writes the text of prompts, and says whether the tokenizer has to add special tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        template: str | None = None,
        system_prompt: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """ConfigError where these contradict each other; without a tokenizer nothing else can be done."""
        self._tokenizer, self._system_prompt = tokenizer, system_prompt
        self._name, self._arguments = template, dict(template_arguments or {})
        self._text, self._is_chat = template_of(template)
        self._examples: Sequence[WorkedExample] = ()
        self._num_examples = 0
        for field, value in (("system_prompt", system_prompt), ("template_arguments", self._arguments)):
            if value and self._is_chat is False:
                raise ConfigError(
                    f"{field}: template {template!r} has no roles; use 'chat', or write it into the template"
                )
        self._require_arguments()

    @property
    def has_text_template(self) -> bool:
        """Text stands around the question, and it is no chat's."""
        return self._is_chat is False and self._text != TEMPLATES["plain"]

    def require_rows(self, rows: Sequence[Row]) -> None:
        """DataError where roles of chat messages would be lost, or a system prompt would be the second."""
        for row in rows:
            roles = [message["role"] for message in row.messages]
            if len(roles) > 1 and not self._writes_chat(row):
                raise DataError(
                    f"template: {self._name or 'plain'!r} would drop the roles of chat messages ({', '.join(roles)}); "
                    "use 'chat' with a tokenizer that has a chat template"
                )
            if self._system_prompt and "system" in roles:
                raise DataError(
                    f"system_prompt: the chat messages of {row.question[:40]!r} have one already; leave it out"
                )
        if any(len(row.messages) == 1 and not self._writes_chat(row) for row in rows):
            logger.warning(
                "arrol: template %r: the one chat message of a row is written as plain text, without its role",
                self._name or "plain",
            )

    def show(self, examples: int | Sequence[Mapping[str, str]], rows: Sequence[Row], seed: int) -> None:
        """Put these examples, or so many of the training rows, before every prompt; never the row of the prompt."""
        if isinstance(examples, int):
            self._num_examples = examples
            self._examples = examples_of(rows, examples, seed) if examples else ()
        else:
            self._examples = [WorkedExample(one["question"], one["answer"]) for one in examples]
            self._num_examples = len(self._examples)

    def written(self, row: Row) -> tuple[str, bool]:
        """The text of a prompt, and whether it is a chat, which has its special tokens already."""
        examples = [one for one in self._examples if one.key != row.key][: self._num_examples]
        if self._writes_chat(row):
            return self._chat(row, examples), True
        blocks = []
        for one in examples:
            filled = self._filled(one.question)
            blocks.append(f"{filled}{'' if filled[-1:].isspace() else ' '}{one.answer}")
        return "\n\n".join([*blocks, self._filled(row.question)]), False

    def _writes_chat(self, row: Row) -> bool:
        if self._is_chat is not None:
            return self._is_chat
        if self._system_prompt or self._arguments:
            return True
        return bool(row.messages and getattr(self._tokenizer, "chat_template", None))

    def _filled(self, question: str) -> str:
        return self._text.replace("{question}", question)

    def _chat(self, row: Row, examples: Sequence[WorkedExample]) -> str:
        asked = [dict(message) for message in row.messages] or [{"role": "user", "content": row.question}]
        asked[-1]["content"] = self._filled(asked[-1]["content"])
        system: Messages = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
        while len(asked) > 1 and asked[0]["role"] == "system":
            system.append(asked.pop(0))
        turns: Messages = []
        for one in examples:
            turns += [{"role": "user", "content": self._filled(one.question)}]
            turns += [{"role": "assistant", "content": one.answer}]
        return self._applied([*system, *turns, *asked])

    def _applied(self, messages: Messages) -> str:
        apply: Callable[..., str] | None = getattr(self._tokenizer, "apply_chat_template", None)
        if apply is None or not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(
                f"tokenizer: it has no chat template for template {self._name or 'chat'!r}; use template 'plain'"
            )
        from jinja2 import TemplateError  # the chat template's language

        try:
            return apply(messages, tokenize=False, add_generation_prompt=True, **self._arguments)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"tokenizer: its chat template refuses messages of {roles} ({' '.join(str(error).split())[:120]}); "
                "leave system_prompt or examples out, or use a text template"
            ) from None

    def _require_arguments(self) -> None:
        known = str(getattr(self._tokenizer, "chat_template", None) or "")
        for name in self._arguments:
            if name in RESERVED:
                raise ConfigError(f"template_arguments: {name!r} is set by arrol; leave it out")
            if known and not re.search(rf"\b{re.escape(name)}\b", known):
                raise ConfigError(
                    f"template_arguments: the tokenizer's chat template reads no {name!r}; correct it, or leave it out"
                )


def template_of(name: str | None) -> tuple[str, bool | None]:
    """Text with ``{question}``, and whether it is a user's message of a chat; None: that depends on the row."""
    if name is None:
        return "{question}", None
    if name in TEMPLATES:
        return TEMPLATES[name], name.startswith("chat")
    if "{question}" not in name:
        raise ConfigError(
            f"template: {name!r} is unknown; choose from {', '.join(TEMPLATES)}, or write one with {{question}} in it"
        )
    return name.removeprefix(OWN_CHAT).lstrip(" ") if name.startswith(OWN_CHAT) else name, name.startswith(OWN_CHAT)


def examples_of(rows: Sequence[Row], count: int, seed: int) -> list[WorkedExample]:
    """One more than ``count`` examples of different training rows, in an order fixed by the seed."""
    found: dict[str, WorkedExample] = {}
    for index in rng_at(seed, Stream.EXAMPLES, 0).permutation(len(rows)):
        row = rows[int(index)]
        answer = row.solution or (row.answer if len(read_gold(row.answer).parts) == 1 else "")
        if answer.strip() and row.key not in found:
            question = row.messages[-1]["content"] if row.messages else row.question
            found[row.key] = WorkedExample(question, answer.strip(), row.key)
        if len(found) > count:
            return list(found.values())
    raise DataError(
        f"examples: {count} asked, and {len(found)} different training rows have an answer to show; one more than "
        "asked is needed, so ask for fewer, name the answer_column, or write examples as tables"
    )
