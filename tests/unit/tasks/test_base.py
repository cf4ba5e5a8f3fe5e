"""Streams, the split and mixtures: what every synthetic task promises."""

import pytest

from arrol.errors import ConfigError, ModelError
from arrol.tasks import base
from arrol.tasks.arithmetic import ArithmeticTask
from arrol.tasks.base import HELD_OUT_ONE_IN, Stream, is_held_out, rng_at
from arrol.tasks.countdown import CountdownTask
from arrol.tasks.search import SearchTask

TASKS = pytest.mark.parametrize("kind", [ArithmeticTask, CountdownTask, SearchTask])


def test_random_numbers_depend_on_seed_stream_and_position_alone():
    def first(*address):
        return int(rng_at(*address).integers(2**62))

    assert first(3, Stream.TRAIN, 5) == first(3, Stream.TRAIN, 5)
    others = {first(3, Stream.TRAIN, 5), first(4, Stream.TRAIN, 5), first(3, Stream.EVAL, 5), first(3, Stream.TRAIN, 6)}
    assert len(others) == 4


def test_the_split_is_the_same_for_ever_and_about_one_in_sixteen():
    held_out = [key for key in range(4_000) if is_held_out(str(key))]
    assert held_out[:5] == [5, 23, 85, 127, 146]  # another list means: published runs met their evaluation in training
    assert abs(len(held_out) * HELD_OUT_ONE_IN / 4_000 - 1) < 0.2


@TASKS
def test_prompts_are_a_pure_function_of_seed_and_position(kind, tokenizer):
    task = kind(tokenizer, seed=7)
    backward = [task.train_prompt(position) for position in reversed(range(20))]
    task.eval_prompts(3)
    again = kind(tokenizer, seed=7)
    assert backward[::-1] == [again.train_prompt(position) for position in range(20)]
    assert [kind(tokenizer, seed=8).train_prompt(position).text for position in range(20)] != [p.text for p in backward]


@TASKS
def test_a_pool_is_asked_once_in_every_epoch_in_a_new_order(kind, tokenizer):
    task, endless = kind(tokenizer, seed=7, num_problems=30), kind(tokenizer, seed=7)
    pool = sorted(endless.train_prompt(number).text for number in range(30))
    epochs = [[task.train_prompt(30 * epoch + place).text for place in range(30)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [pool] * 3
    assert len(set(map(tuple, epochs))) == 3
    other = kind(tokenizer, seed=8, num_problems=30)
    assert sorted(other.train_prompt(position).text for position in range(30)) != pool


@TASKS
def test_a_pool_is_a_pure_function_of_seed_and_position(kind, tokenizer):
    task = kind(tokenizer, seed=7, num_problems=6)
    straight = [task.train_prompt(position) for position in range(20)]
    again = kind(tokenizer, seed=7, num_problems=6)
    assert [again.train_prompt(position) for position in reversed(range(20))] == straight[::-1]
    assert task.eval_prompts(5) == kind(tokenizer, seed=7).eval_prompts(5)
    assert task.demonstration(3) == kind(tokenizer, seed=7).demonstration(3)


@TASKS
def test_no_pool_is_the_endless_stream(kind, tokenizer):
    plain, zero = kind(tokenizer, seed=7), kind(tokenizer, seed=7, num_problems=0)
    asked = [plain.train_prompt(position) for position in range(50)]
    assert [zero.train_prompt(position) for position in range(50)] == asked
    rng = rng_at(7, Stream.TRAIN, 4)
    level = plain.levels[int(rng.integers(len(plain.levels)))]
    while is_held_out((problem := plain.draw(rng, level)).key):
        pass
    assert asked[4].key == problem.key


@TASKS
def test_evaluation_never_meets_training_whatever_the_seed(kind, tokenizer):
    asked = {prompt.key for seed in (0, 1) for prompt in kind(tokenizer, seed=seed).eval_prompts(100)}
    task = kind(tokenizer, seed=2)
    trained = {task.train_prompt(position).key for position in range(1_500)}
    shown = {task.demonstration(position)[0] for position in range(1_500)}
    assert not asked & (trained | shown)


@TASKS
def test_eval_prompts_differ_cover_all_levels_and_grow_at_the_end(kind, tokenizer):
    task = kind(tokenizer, seed=0)
    prompts = task.eval_prompts(60)
    assert len({prompt.key for prompt in prompts}) == 60
    assert task.eval_prompts(20) == prompts[:20]
    counts = [sum(prompt.level == level for prompt in prompts) for level in task.levels]
    assert min(counts) >= 60 // len(counts) - 2


@TASKS
def test_eval_prompts_are_drawn_once(kind, tokenizer, monkeypatch):
    task, again = kind(tokenizer, seed=0), kind(tokenizer, seed=0)
    prompts = task.eval_prompts(30)
    draws = []
    real = task.draw
    monkeypatch.setattr(task, "draw", lambda *args: draws.append(1) or real(*args))
    assert task.eval_prompts(30) == prompts
    assert not draws
    assert task.eval_prompts(40) == again.eval_prompts(40)
    assert draws


@TASKS
def test_a_prompt_carries_its_tokens_and_an_exact_solution(kind, tokenizer):
    task = kind(tokenizer)
    for position in range(50):
        prompt = task.train_prompt(position)
        assert prompt.token_ids == tuple(tokenizer.encode(prompt.text))
        assert task.verify(prompt, prompt.solution).reward == 1.0


@TASKS
def test_the_alphabet_is_enough(kind, tokenizer):
    task = kind(tokenizer)
    for position in range(500):
        assert set("".join(task.demonstration(position))) <= set(kind.alphabet)


def test_a_mixture_is_followed(tokenizer):
    task = ArithmeticTask(tokenizer)
    alone = [task.demonstration(position, {"careful": 2.0, "direct": 0.0}) for position in range(50)]
    assert all("," in solution for _, solution in alone)
    shares = [("," in task.demonstration(p, {"careful": 1.0, "direct": 3.0})[1]) for p in range(800)]
    assert abs(sum(shares) / 800 - 0.25) < 0.06
    assert task.demonstration(3) == task.demonstration(3, task.default_mixture)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"brilliant": 1.0}, r"'brilliant' is no solver of arithmetic; choose from \('careful'"),
        ({"careful": -1.0}, r"weight -1.0 of 'careful'"),
        ({"careful": float("nan")}, r"weight nan of 'careful'"),
        ({"careful": 0.0}, "no weight above 0"),
        ({}, "no weight above 0"),
    ],
)
def test_a_wrong_mixture_is_one_line(tokenizer, mixture, message):
    with pytest.raises(ConfigError, match=message):
        ArithmeticTask(tokenizer).demonstration(0, mixture)


@TASKS
def test_a_tokenizer_that_cannot_spell_the_task_is_refused(kind, tokenizer):
    with pytest.raises(ModelError, match=r"tokenizer: cannot spell '#9'"):
        kind(type(tokenizer)(set(kind.alphabet) - {"#", "9"}))


def test_a_negative_seed_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="seed: -1"):
        ArithmeticTask(tokenizer, seed=-1)


def test_a_negative_pool_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="num_problems: -1"):
        ArithmeticTask(tokenizer, num_problems=-1)


def test_too_few_held_out_problems_are_an_error_and_no_endless_loop(tokenizer, monkeypatch):
    monkeypatch.setattr(base, "MAX_DRAWS", 200)
    with pytest.raises(
        ConfigError, match=r"eval prompts: 5000 asked, arithmetic has \d+ different held-out problems; ask"
    ):
        ArithmeticTask(tokenizer, min_ops=1, max_ops=1).eval_prompts(5_000)
