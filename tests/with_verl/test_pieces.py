"""The parts that need verl's classes, without a run: its agent loop, its config, its manager's refusal."""

import asyncio
import logging

import pytest

import verl_host
from arrol.engines.vllm.request import parse_args

SUITS = ["actor_rollout_ref.rollout.name=vllm", "+arrol.probe_tokens=12"]


def test_the_helper_reads_the_config_of_verl(tmp_path):
    plain = verl_host.plain_overrides(tmp_path)
    lines = verl_host.derived([*plain, "+arrol.probe_tokens=12"])
    assert f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={16 * (32 + 112)}" in lines
    from arrol.integrations.verl.__main__ import compose
    from arrol.integrations.verl.derive import check

    assert check(compose([*plain, "+arrol.probe_tokens=12", *lines])).host.pruning.probe_tokens == (12,)


def test_the_helper_composes_way_engine(tmp_path):
    from arrol.integrations.verl.__main__ import compose
    from arrol.integrations.verl.derive import check

    command = [*verl_host.plain_overrides(tmp_path), *SUITS, "+arrol.way=engine", "+arrol.rule=uniform"]
    config = compose([*command, *verl_host.derived(command)])
    classes = config["actor_rollout_ref"]["rollout"]["engine_kwargs"]["vllm"]
    assert classes == {"scheduler_cls": "arrol.engines.vllm.ConfidenceScheduler"}
    assert check(config).way == "engine"


def test_the_helper_reads_another_config_of_verl(capsys):
    from arrol.integrations.verl.__main__ import main

    command = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=4", "trainer.n_gpus_per_node=4"]
    command += ["actor_rollout_ref.rollout.name=vllm", "+arrol.probe_tokens=12", "+arrol.rule=uniform"]
    assert main(["--config-name=ppo_megatron_trainer.yaml", *command]) == 0
    assert "actor_rollout_ref.actor.use_dynamic_bsz=True" in capsys.readouterr().out.splitlines()
    assert main(["--config-path=elsewhere", *command]) == 2
    assert "--config-path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "word"),
    [("+data.no_such=1 data.train_files=[", "overrides: "), ("no_such.key=1", "no_such"), ("+arrol.rle=1", "'rule'")],
)
def test_the_helper_refuses_in_one_line(capsys, override, word):
    from arrol.integrations.verl.__main__ import main

    assert main(override.split()) == 2
    err = capsys.readouterr().err
    assert word in err
    assert err.count("\n") == 1


def test_the_installation_is_sound(capsys):
    from arrol.integrations.verl.__main__ import main

    assert main(["--check"]) == 0
    assert "verl 0.9." in capsys.readouterr().out


def test_the_manager_refuses_before_anything_starts(tmp_path):
    from omegaconf import OmegaConf

    from arrol.errors import ConfigError
    from arrol.integrations.verl import AgentLoopManager
    from arrol.integrations.verl.__main__ import compose

    config = OmegaConf.create(compose([*verl_host.plain_overrides(tmp_path), "+arrol.probe_tokens=12"]))
    with pytest.raises(ConfigError, match="use_dynamic_bsz = False: static micro-batches"):
        AgentLoopManager(config, None)


def test_a_prompt_keeps_its_name():
    from arrol.integrations.verl.manager import prompt_key

    messages = [{"role": "user", "content": "1+1="}]
    assert prompt_key(messages) == prompt_key(tuple(messages)) != prompt_key([{"role": "user", "content": "1+2="}])


class Service:
    """The actor as a rollout sees it: remembers what it was told, answers what it is to answer."""

    def __init__(self, keep):
        self.keep, self.told = keep, []

    def __getattr__(self, name):
        class Method:
            @staticmethod
            def remote(*arguments, **named):
                self.told.append((name, *arguments, *named.values()))
                answer = asyncio.get_running_loop().create_future()
                answer.set_result(self.keep)
                return answer

        return Method


class Server:
    """Like verl's client; writes the given tokens, as many as asked for."""

    def __init__(self, token_ids, prompt_size):
        self.token_ids, self.prompt_size, self.asked = token_ids, prompt_size, []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **others):
        from verl.workers.rollout.replica import TokenOutput

        if self.token_ids is None:
            raise RuntimeError("the server is gone")
        self.asked.append((request_id, sampling_params))
        begun = len(prompt_ids) - self.prompt_size
        written = self.token_ids[begun : begun + sampling_params["max_tokens"]]
        return TokenOutput(token_ids=written, log_probs=[-0.5] * len(written), extra_fields={"global_steps": 1})


@pytest.fixture
def write(data, monkeypatch):
    """``write(token_ids, keep, *options)`` runs one rollout of the agent loop; returns (output, told, asked).

    ``then`` is awaited with the output, in the same task.
    """
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from arrol.integrations.verl import PrunedAgentLoop, agent_loop
    from arrol.integrations.verl.__main__ import compose

    tokenizer = AutoTokenizer.from_pretrained(data / "model")
    prompt = tokenizer.encode("1+1=")

    async def run(config, server, then, keeps_texts):
        ticket = {"step": 3, "group": 5, "size": 4, "success_rate": 0.25, "stop_token_ids": [1], "seed": 42, "run": "r"}
        ticket |= {"probe_tokens": [4], "keeps_texts": keeps_texts}
        loop = PrunedAgentLoop(
            DictConfigWrap(config), server, tokenizer, None, RLHFDataset, DictConfigWrap(config.data)
        )  # fmt: skip
        messages = [{"role": "user", "content": "1+1="}]
        output = await loop.run({"temperature": 1.0}, raw_prompt=messages, arrol=ticket, uid="u", session_id=2)
        if then is not None:
            await then(output)
        return output

    def one(token_ids, keep, *options, then=None, keeps_texts=False):
        config = OmegaConf.create(compose([*verl_host.plain_overrides(data), "+arrol.probe_tokens=4", *options]))
        service, server = Service(keep), Server(token_ids, len(prompt))
        monkeypatch.setattr(agent_loop, "service_handle", lambda: service)
        try:
            output = asyncio.run(run(config, server, then, keeps_texts))
        except (RuntimeError, asyncio.CancelledError) as error:
            output = error
        return output, service.told, server.asked

    return one


LONG = [5, 6, 7, 8, 9, 10, 1]
"""Seven tokens, the last of which ends it."""
ROLLOUT = (3, 5, 2)


def verify(reward):
    """What verl does with an output after ``run``, in the same task."""

    async def then(output):
        output.reward_score = reward

    return then


def test_a_survivor_asks_once_and_reports_its_reward_when_its_task_is_done(write):
    output, told, asked = write(LONG, True, then=verify(0.25))
    assert output.response_ids == LONG
    assert told == [("probed", ROLLOUT, 0, [-2.0, -0.5, -0.5]), ("outcome", ROLLOUT, len(LONG), 0.25, False)]
    assert len({request_id for request_id, _ in asked}) == 1


def test_without_a_reward_the_end_is_reported_all_the_same(write):
    _, told, _ = write(LONG, True)
    assert told[-1] == ("outcome", ROLLOUT, len(LONG), None, False)


def test_only_the_length_limit_truncates(write):
    full = ("actor_rollout_ref.rollout.response_length=7",)
    assert write([5] * 7, True, *full, then=verify(1.0))[1][-1] == ("outcome", ROLLOUT, 7, 1.0, True)
    assert write(LONG, True, *full, then=verify(1.0))[1][-1] == ("outcome", ROLLOUT, 7, 1.0, False), "a stop token"


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_rollout_wrote_is_told_before_its_end(write, keep):
    def then(output):
        output.extra_fields["reward_extra_info"] = {"pred": 2}
        return verify(0.25)(output)

    _, told, _ = write(LONG, keep, then=then if keep else None, keeps_texts=True)
    assert [name for name, *_ in told] == (["probed", "wrote", "outcome"] if keep else ["probed", "wrote"])
    _, rollout, text = told[1]
    assert rollout == ROLLOUT
    assert text.token_ids.tolist() == (LONG if keep else LONG[:4])
    assert text.logprobs_T.tolist() == [-0.5] * len(text.token_ids)
    assert len(text.prompt_ids) > 2
    assert text.answer == ("2" if keep else None)


def test_what_a_rollout_wrote_is_told_where_its_reward_fails_too(write):
    async def then(output):
        raise RuntimeError("no reward")

    _, told, _ = write(LONG, True, then=then, keeps_texts=True)
    assert [name for name, *_ in told] == ["probed", "wrote", "failed"]


def test_a_stopped_rollout_is_an_empty_list(write):
    output, told, asked = write(LONG, False)
    assert output == []
    assert [name for name, *_ in told] == ["probed"]
    assert len(asked) == 1


def test_only_the_stopped_rollouts_are_left_out_of_the_log(write):
    from arrol.integrations.verl.agent_loop import EMPTY, EXPECTED, ExpectedEmpty

    write(LONG, False)
    assert {"u_2"} == EXPECTED

    def passes(text, *arguments):
        return ExpectedEmpty().filter(logging.LogRecord("verl", logging.WARNING, "", 0, text, arguments, None))

    assert not passes(f"{EMPTY}u_2")
    assert passes(f"{EMPTY}u_2"), "once"
    assert passes(f"{EMPTY}u_3")
    assert passes("another line: %d", 3)


def test_verl_warns_of_an_empty_output_in_these_words():
    import inspect

    from verl.trainer.ppo.v1 import agent_loop_tq

    from arrol.integrations.verl.agent_loop import EMPTY

    assert agent_loop_tq.logger.name == agent_loop_tq.AgentLoopManagerTQ.__module__
    assert f'logger.warning(f"{EMPTY}{{uid}}_{{session_id}}")' in inspect.getsource(agent_loop_tq)


def test_our_sampler_takes_over_group_filtering_and_refills():
    from omegaconf import OmegaConf

    from arrol.integrations.verl import MetricsReplayBuffer

    def of(**sampler_kwargs):
        return MetricsReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create(sampler_kwargs),
            refill_fn=len,
        )

    assert of().filter_groups_metric is None
    filtering = of(filter_groups_metric="acc", max_inflight_gen_batches=2, train_batch_size=8)
    assert (filtering.filter_groups_metric, filtering.max_inflight_gen_batches) == ("acc", 2)
    assert (filtering.train_batch_size, filtering.gen_batch_size) == (8, 1)
    assert of(sync_refill_failed_groups=True, train_batch_size=8).sync_refill_failed_groups


def test_each_step_gets_mini_batches_of_its_own(caplog):
    """In the very config that verl's trainer reads."""
    from omegaconf import OmegaConf

    from arrol.integrations.verl.batch import MiniBatches
    from arrol.integrations.verl.sampler import StepSizes

    caplog.clear()  # what verl says at its import
    config = OmegaConf.create({"actor": {"ppo_mini_batch_size": 4}})
    OmegaConf.set_struct(config, True)
    sizes = StepSizes(config, MiniBatches(("actor.ppo_mini_batch_size",), (2,), 8, 2))
    assert sizes.fit(32) == {"batch/rows": 32, "batch/synthetic_rows": 0, "batch/mini_batches": 2}
    assert config.actor.ppo_mini_batch_size == 2
    assert not caplog.records
    assert sizes.fit(34)["batch/synthetic_rows"] == 14
    assert config.actor.ppo_mini_batch_size == 3
    sizes.fit(34)
    assert caplog.messages == [
        "arrol: verl adds 14 synthetic rows to the 34 of this step; fewer updates per step (a larger "
        "ppo_mini_batch_size) or more prompts make them rare"
    ]


@pytest.mark.parametrize(
    ("trainer", "updates", "last"),
    [
        ({"total_training_steps": 5}, None, 5),
        ({"total_training_steps": None}, 7, 7),
        ({"v1": {"trainer_mode": "separate_async", "separate_async": {"parameter_sync_step": 4}}}, 24, 6),
        ({"total_training_steps": None}, -1, None),
    ],
)
def test_the_last_step_is_known_from_verls_config(trainer, updates, last):
    from omegaconf import OmegaConf

    from arrol.integrations.verl.batch import MiniBatches
    from arrol.integrations.verl.sampler import StepSizes

    optim = {"optim": {"total_training_steps": updates}}
    config = OmegaConf.create({"trainer": trainer, "actor_rollout_ref": {"actor": optim}})
    sizes = StepSizes(config, MiniBatches((), (), 8, 2))
    assert [step for step in range(1, 9) if sizes.is_last(step)][:1] == ([] if last is None else [last])


def test_a_rollout_that_ends_before_the_probe_tells_its_siblings(write):
    output, told, _ = write([5, 1], True)
    assert output.response_ids == [5, 1]
    assert told == [("ended", ROLLOUT), ("outcome", ROLLOUT, 2, None, False)]


def test_a_rollout_that_raises_is_reported_as_failed(write):
    output, told, _ = write(None, True)
    assert isinstance(output, RuntimeError)
    assert told == [("failed", ROLLOUT)]


@pytest.mark.parametrize("end", ["cancel", "reward"])
def test_a_task_that_is_cancelled_or_loses_its_reward_is_reported_as_failed(write, end):
    """verl computes the reward after ``run``, in the same task."""

    async def afterwards(output):
        if end == "reward":
            raise RuntimeError("no reward")
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    output, told, _ = write(LONG, True, then=afterwards)
    assert isinstance(output, (RuntimeError, asyncio.CancelledError))
    assert [name for name, *_ in told] == ["probed", "failed"]
    assert told[-1] == ("failed", ROLLOUT)


def test_inside_the_engine_one_call_carries_the_arguments_of_its_group(write):
    way = ("actor_rollout_ref.rollout.name=vllm", "+arrol.way=engine", "+arrol.rule=uniform")
    output, told, asked = write(LONG, None, *way)
    assert output.response_ids == LONG
    assert told == [("outcome", ROLLOUT, len(LONG), None, False)]
    ((request_id, params),) = asked
    request = parse_args(params["extra_args"])
    assert request_id == "arrol-3-5", "siblings find the same server"
    assert (request.group, request.size, request.step, request.index, request.seed) == ("5", 4, 3, 2, 42)
    assert (request.rule.rule, request.rule.probe_tokens, request.success_rate) == ("uniform", (4,), 0.25)
    output, told, _ = write(LONG[:4], None, *way)
    assert output == []
    assert told == [("pruned", ROLLOUT, 4)]


@pytest.mark.parametrize("names", [["tool_agent", "single_turn_agent"], "tool_agent"])
def test_data_that_name_agent_loops_of_their_own_are_refused(names):
    import numpy as np
    from verl.utils import tensordict_utils

    from arrol.errors import DataError
    from arrol.integrations.verl import AgentLoopManager

    prompts = tensordict_utils.get_tensordict({"uid": np.array(["a", "b"], dtype=object)})
    tensordict_utils.assign_non_tensor(prompts, agent_name=names)
    manager = object.__new__(AgentLoopManager)
    with pytest.raises(DataError) as error:
        manager._add_tickets(prompts, Service(None))
    assert str(error.value) == (
        "agent_name = ['tool_agent']: only single_turn_agent can be pruned; drop this column of the data"
    )


def test_what_ends_a_response_is_read_from_the_model(data):
    from omegaconf import OmegaConf

    from arrol.integrations.verl.__main__ import compose
    from arrol.integrations.verl.manager import stop_token_ids

    config = OmegaConf.create(compose(verl_host.plain_overrides(data)))
    assert stop_token_ids(config) == [1]
    config.actor_rollout_ref.rollout.ignore_eos = True
    assert stop_token_ids(config) == []
