"""A rollout cut in two calls, and one judged inside an engine, against a server that follows a script."""

import asyncio

import pytest

from arrol.engines.vllm.request import parse_args, pruning_args
from arrol.errors import ModelError
from arrol.integrations.verl.client import (
    CONTINUED_PRIORITY,
    CONTINUED_SEEDS,
    InsideEngine,
    Limits,
    Pruned,
    TwoCalls,
    joined,
)

EOS = 9
LIMITS = Limits(response_length=10, stop_token_ids=frozenset({EOS}))


class Output:
    """Like verl's ``TokenOutput``."""

    def __init__(self, token_ids, *, step=3, preempted=None):
        self.token_ids, self.log_probs = list(token_ids), [-float(t) for t in token_ids]
        self.stop_reason, self.num_preempted = "completed", preempted
        self.extra_fields = {"min_global_steps": step, "max_global_steps": step}


class Server:
    """Writes the tokens of a script, wherever a call takes it up; remembers what it was asked."""

    def __init__(self, script, prompt=(1, 2)):
        self.script, self.prompt, self.calls, self.seeds = list(script), list(prompt), [], []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **others):
        begun = len(prompt_ids) - len(self.prompt)
        assert prompt_ids == self.prompt + self.script[:begun]
        self.calls.append((request_id, begun, sampling_params["max_tokens"], others))
        self.seeds.append(sampling_params.get("seed"))
        return Output(self.script[begun : begun + sampling_params["max_tokens"]], step=3 + len(self.calls))


def cut(script, *, probes=(4,), answers=(True,), prioritized=False, seed=None):
    """(output, server, questions) of a rollout that writes this script; ``server.client`` is what it used."""
    server, questions, pending = Server(script), [], list(answers)

    async def ask(probe, logprobs):
        questions.append((probe, logprobs))
        return pending.pop(0)

    client = TwoCalls(server, probe_tokens=probes, limits=LIMITS, ask=ask, prioritized=prioritized, seed=seed)
    params, server.client = {"temperature": 1.0}, client
    try:
        output = asyncio.run(client.generate("r", prompt_ids=[1, 2], sampling_params=params, priority=0))
    except Pruned as pruned:
        output = pruned
    assert params == {"temperature": 1.0}, "the caller's dict is its own"
    return output, server, questions


def test_a_survivor_is_one_output_of_two_calls():
    output, server, questions = cut([3, 4, 5, 6, 7, 8, EOS])
    assert output.token_ids == [3, 4, 5, 6, 7, 8, EOS]
    assert output.log_probs == [-3, -4, -5, -6, -7, -8, -EOS]
    assert [call[:3] for call in server.calls] == [("r", 0, 4), ("r", 4, 6)]
    assert questions == [(0, [-18.0, -6.0, -4.5])]
    assert output.extra_fields == {"min_global_steps": 4, "max_global_steps": 5}


def test_a_later_call_does_not_repeat_the_random_stream_of_the_first():
    """With full_determinism verl gives every call of a server one seed, unless a call brings its own."""
    _, server, _ = cut([3, 4, 5, 6, 7, 8, EOS], probes=(2, 4), answers=(True, True), seed=7)
    assert server.seeds == [None, CONTINUED_SEEDS + 9, CONTINUED_SEEDS + 11]
    _, server, _ = cut([3, 4, 5, 6, 7, 8, EOS])
    assert server.seeds == [None, None]


def test_a_pruned_one_writes_nothing_more():
    output, server, _ = cut([3, 4, 5, 6, 7, 8, EOS], answers=[False])
    assert isinstance(output, Pruned)
    assert output.num_tokens == 4
    assert len(server.calls) == 1


@pytest.mark.parametrize("script", [[3, EOS], [3, 4, 5, EOS], []])
def test_one_that_ended_before_or_at_the_probe_is_not_asked_about(script):
    output, server, questions = cut(script, answers=[])
    assert output.token_ids == script
    assert questions == []
    assert len(server.calls) == 1


def test_several_probes_and_the_length_limit():
    output, server, questions = cut([3] * 12, probes=(2, 5), answers=[True, True])
    assert len(output.token_ids) == LIMITS.response_length
    assert [call[1:3] for call in server.calls] == [(0, 2), (2, 3), (5, 5)]
    assert [probe for probe, _ in questions] == [0, 1]
    assert questions[1][1][0] == -15.0


@pytest.mark.parametrize(("script", "awaited"), [([3, EOS], True), ([3] * 4 + [EOS], True), ([3] * 7, False)])
def test_siblings_wait_for_it_until_its_last_probe(script, awaited):
    _, server, _ = cut(script, probes=(2, 5), answers=[True, True])
    assert server.client.is_awaited is awaited


def test_who_has_begun_goes_first_where_the_server_knows_priorities():
    _, server, _ = cut([3] * 8, prioritized=True)
    assert [call[3]["priority"] for call in server.calls] == [0, CONTINUED_PRIORITY]
    _, server, _ = cut([3] * 8)
    assert [call[3]["priority"] for call in server.calls] == [0, 0]


def test_preemptions_add_up_where_they_are_counted():
    assert joined(Output([1], preempted=2), Output([2], preempted=1)).num_preempted == 3
    assert joined(Output([1]), Output([2])).num_preempted is None


class Engine:
    """A server whose vLLM stops a request after so many tokens."""

    def __init__(self, token_ids):
        self.token_ids, self.calls = token_ids, []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **others):
        self.calls.append((request_id, sampling_params))
        return Output(self.token_ids)


def inside(token_ids):
    engine = Engine(token_ids)
    arguments = pruning_args(group="5", size=4, step=2, index=1, rule="uniform", probe_tokens=4)
    client = InsideEngine(engine, arguments=arguments, limits=LIMITS, sticky_id="arrol-2-5")
    return asyncio.run(client.generate("r", prompt_ids=[1], sampling_params={"top_k": 0})), engine


@pytest.mark.parametrize("token_ids", [[3, 4, EOS], [3] * 10])
def test_one_that_ended_by_itself_survives_the_engine(token_ids):
    output, engine = inside(token_ids)
    assert output.token_ids == token_ids
    (request_id, params) = engine.calls[0]
    request = parse_args(params["extra_args"])
    assert request_id == "arrol-2-5"
    assert (request.group, request.step, request.index) == ("5", 2, 1)
    assert params["max_tokens"] == 10
    assert params["top_k"] == 0


def test_one_that_ended_for_no_reason_of_its_own_was_pruned():
    with pytest.raises(Pruned) as pruned:
        inside([3, 4, 5, 6])
    assert pruned.value.num_tokens == 4


def test_an_empty_answer_is_a_refusal():
    with pytest.raises(ModelError, match="refused"):
        inside([])
