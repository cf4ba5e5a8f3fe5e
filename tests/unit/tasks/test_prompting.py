"""Templates, system prompts, arguments of the chat template, and worked examples."""

import json

import pytest
from jinja2 import TemplateError

from arrol.errors import ConfigError, DataError, ModelError
from arrol.tasks.columns import Row
from arrol.tasks.dataset import DatasetTask
from arrol.tasks.prompting import PromptWriter, examples_of, template_of


def row(question="2+2", *messages, answer="4", solution="", key=None):
    told = tuple({"role": role, "content": content} for role, content in messages)
    return Row(key or question, question, told, answer, solution, 0)


@pytest.fixture
def chat(tokenizer):
    """A tokenizer whose chat template reads ``enable_thinking``."""
    return type(tokenizer)(chat_template="... {% if enable_thinking %} ...")


def text(tokenizer, one, examples=0, rows=(), seed=0, **options):
    writer = PromptWriter(tokenizer, **options)
    writer.require_rows([one, *rows])
    writer.show(examples, rows, seed)
    return writer.written(one)


@pytest.mark.parametrize(
    ("template", "written", "is_chat"),
    [
        (None, "2+2", False),
        ("qa", "Question: 2+2\nAnswer:", False),
        ("Q: {question}\nA:", "Q: 2+2\nA:", False),
        ("{question} {x} = ", "2+2 {x} = ", False),
        ("chat", "<user>2+2</><assistant>", True),
        ("chat: {question}\nOne word.", "<user>2+2\nOne word.</><assistant>", True),
        ("chat:{question}!", "<user>2+2!</><assistant>", True),
    ],
)
def test_a_template_is_a_name_or_a_text_with_the_question(chat, template, written, is_chat):
    assert text(chat, row(), template=template) == (written, is_chat)


@pytest.mark.parametrize("template", ["other", "", "chat: no place", "{Question}"])
def test_a_template_without_a_place_for_the_question_is_refused(template):
    with pytest.raises(ConfigError, match=rf"template: {template!r} is unknown; choose from plain, .*, or write one"):
        template_of(template)


def test_messages_go_through_the_chat_template_by_themselves(tokenizer, chat):
    one = row("s\nq", ("system", "s"), ("user", "q"))
    assert text(chat, one) == ("<system>s</><user>q</><assistant>", True)
    assert text(chat, one, template="chat-boxed")[0].startswith("<system>s</><user>q\nPlease reason")
    for options in ({"template": "plain"}, {"template": "Q: {question}"}):
        with pytest.raises(DataError, match=r"template: '.*' would drop the roles of chat messages \(system, user\)"):
            text(chat, one, **options)
    with pytest.raises(DataError, match=r"template: 'plain' would drop the roles"):
        text(tokenizer, one)
    with pytest.raises(ModelError, match=r"tokenizer: it has no chat template for template 'chat'; use template"):
        text(tokenizer, one, template="chat")


def test_one_message_may_be_written_as_text_and_that_is_said(tokenizer, chat, caplog):
    one = row("q", ("user", "q"))
    assert text(chat, one) == ("<user>q</><assistant>", True)
    assert caplog.messages == []
    assert text(tokenizer, one) == ("q", False)
    assert text(chat, one, template="qa") == ("Question: q\nAnswer:", False)
    assert caplog.messages == [
        f"arrol: template {name!r}: the one chat message of a row is written as plain text, without its role"
        for name in ("plain", "qa")
    ]


def test_a_system_prompt_comes_first_and_makes_a_chat_of_a_question(chat):
    assert text(chat, row(), system_prompt="Be brief.") == ("<system>Be brief.</><user>2+2</><assistant>", True)
    one = row("q", ("user", "a"), ("assistant", "b"), ("user", "q"))
    assert text(chat, one, system_prompt="s")[0] == "<system>s</><user>a</><assistant>b</><user>q</><assistant>"
    with pytest.raises(DataError, match=r"system_prompt: the chat messages of 's\\nq' have one already; leave it out"):
        text(chat, row("s\nq", ("system", "s"), ("user", "q")), system_prompt="t")
    for template in ("plain", "Q: {question}"):
        with pytest.raises(ConfigError, match=r"system_prompt: template '.*' has no roles; use 'chat', or write"):
            text(chat, row(), system_prompt="s", template=template)


def test_arguments_reach_the_chat_template_if_it_reads_them(tokenizer, chat):
    arguments = {"enable_thinking": False}
    found = text(chat, row(), template_arguments=arguments)
    assert found == ("<user>2+2</>[enable_thinking=False]<assistant>", True)
    with pytest.raises(ConfigError, match=r"tokenizer's chat template reads no 'enable_thinkin'"):
        text(chat, row(), template_arguments={"enable_thinkin": False})
    with pytest.raises(ConfigError, match=r"template_arguments: 'tokenize' is set by arrol; leave it out"):
        text(chat, row(), template_arguments={"tokenize": True})
    with pytest.raises(ConfigError, match=r"template_arguments: template 'qa' has no roles"):
        text(chat, row(), template="qa", template_arguments=arguments)
    with pytest.raises(ModelError, match="it has no chat template for template 'chat'"):
        text(tokenizer, row(), template_arguments=arguments)


def test_a_chat_template_that_refuses_is_one_line(chat):
    def refuse(*args, **kwargs):
        raise TemplateError("System role\nnot supported")

    chat.apply_chat_template = refuse
    with pytest.raises(ModelError) as caught:
        text(chat, row(), system_prompt="s")
    assert str(caught.value) == (
        "tokenizer: its chat template refuses messages of system, user (System role not supported); leave "
        "system_prompt or examples out, or use a text template"
    )


WRITTEN = [{"question": "1+1", "answer": "2"}, {"question": "3+3", "answer": "6"}]


def test_written_examples_are_blocks_of_a_text_and_turns_of_a_chat(chat):
    assert text(chat, row(), WRITTEN, template="Q: {question}\nA:")[0] == "Q: 1+1\nA: 2\n\nQ: 3+3\nA: 6\n\nQ: 2+2\nA:"
    assert text(chat, row(), WRITTEN[:1], template="{question}\n")[0] == "1+1\n2\n\n2+2\n"
    one = row("s\nq", ("system", "s"), ("user", "q"))
    assert text(chat, one, WRITTEN[:1], template="chat:{question}?")[0] == (
        "<system>s</><user>1+1?</><assistant>2</><user>q?</><assistant>"
    )
    assert text(chat, row(), WRITTEN[:1], system_prompt="s")[0] == (
        "<system>s</><user>1+1</><assistant>2</><user>2+2</><assistant>"
    )


def test_examples_of_the_data_are_fixed_by_the_seed_and_never_the_row_itself(tokenizer):
    rows = [row(f"q{n}", answer=f"a{n}") for n in range(9)]

    def shown(one, seed=0):
        return [part.split(" ")[0] for part in text(tokenizer, one, 3, rows, seed)[0].split("\n\n")]

    found = {one.question: shown(one) for one in rows}
    usual = [question for question in found["q0"] if question != "q0"]
    for question, (*examples, last) in found.items():
        assert last == question
        assert len(set(examples)) == 3
        assert question not in examples
    outside = shown(row("new"))[:3]
    assert [examples for question, (*examples, _) in found.items() if question not in outside] == [outside] * 6
    assert usual
    assert outside == shown(row("other"))[:3] != shown(row("other"), seed=1)[:3]


def test_examples_show_the_worked_solution_where_there_is_one_and_one_question_once():
    rows = [row("a", answer="1", solution=" so 1 "), row("a", answer="9"), row("b", answer="2"), row("c", answer="")]
    rows.append(row("d", answer='{"all_of": ["1", "2"]}'))
    found = {one.question: one.answer for one in examples_of(rows, 1, seed=0)}
    assert found.items() <= {("a", "so 1"), ("a", "9"), ("b", "2")}
    with pytest.raises(DataError, match=r"examples: 2 asked, and 2 different training rows have an answer"):
        examples_of(rows, 2, seed=0)


def test_a_task_asks_with_its_template_and_its_examples(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"{n}?", "answer": f"work\n#### {n}"} for n in range(200)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    task = DatasetTask(tokenizer, source=str(path), template="Q: {question}\nA:", examples=2)
    keys = {one.key for one in task.eval_rows}
    for prompt in [task.train_prompt(place) for place in range(40)] + task.eval_prompts(5):
        *blocks, last = prompt.text.split("\n\n")
        assert len(blocks) == 2
        assert all("\nA: work\n#### " in block for block in blocks)
        assert last.endswith("?\nA:")
        assert not any(block.startswith(last) for block in blocks)
        assert prompt.token_ids == tuple(tokenizer.encode(prompt.text))
    assert keys, "and evaluated rows are shown nowhere"
    with pytest.raises(DataError, match="examples: 2 asked, and 0 different training rows"):
        DatasetTask(tokenizer, source=str(path), split="", examples=2)


def test_messages_are_recognised_and_the_assistants_last_word_is_the_answer(chat, tmp_path):
    path = tmp_path / "a.jsonl"
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "6*7"}]
    last = {"role": "assistant", "content": "It is\n#### 42"}
    path.write_text(json.dumps({"messages": [*said, last]}) + "\n", "utf-8")
    task = DatasetTask(chat, source=str(path), split="")
    (prompt,) = task.eval_prompts(1)
    assert prompt.text == "<system>s</><user>6*7</><assistant>"
    assert (prompt.answer, prompt.solution) == ("42", "It is\n#### 42")
    path.write_text(json.dumps({"messages": [*said, last], "answer": "7"}) + "\n", "utf-8")
    assert DatasetTask(chat, source=str(path), split="").eval_prompts(1)[0].answer == "7"
    path.write_text(json.dumps({"messages": said}) + "\n", "utf-8")
    with pytest.raises(DataError, match="answer_column: not given"):
        DatasetTask(chat, source=str(path), split="")


def test_an_example_of_a_chat_is_what_the_user_said_last(chat):
    rows = [row(f"s\nq{n}", ("system", "s"), ("user", f"q{n}"), answer=f"a{n}", key=str(n)) for n in range(3)]
    shown = {one.question: one.answer for one in examples_of(rows, 1, seed=0)}
    assert shown.items() <= {("q0", "a0"), ("q1", "a1"), ("q2", "a2")}


def test_a_system_message_alone_is_written_as_it_is(chat):
    assert text(chat, row("s", ("system", "s")))[0] == "<system>s</><assistant>"
