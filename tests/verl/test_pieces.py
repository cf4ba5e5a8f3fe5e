"""The parts that need verl's classes, without a run: its output, its config, its manager's refusal."""

import pytest

import verl_host

SUITS = ["actor_rollout_ref.rollout.name=vllm", "+arrol.probe_tokens=12"]


@pytest.fixture
def output():
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

    return AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3, 4],
        response_mask=[1, 1],
        response_logprobs=[-0.5, -1.0],
        num_turns=2,
        metrics=AgentLoopMetrics(),
        extra_fields={"global_steps": 1},
    )


def test_an_output_reports_its_reward_and_is_stored_as_before(output):
    from arrol.integrations.verl.agent_loop import ReportedOutput

    told = []
    reported = ReportedOutput.of(output, told.append)
    for each in (output, reported):
        each.reward_score = 0.25
        each.extra_fields["reward_extra_info"] = {"acc": 1.0}
    left, right = output.as_dict(), reported.as_dict()
    assert told == [0.25]
    assert left.keys() == right.keys()
    assert all(str(left[key]) == str(right[key]) for key in left)


def test_an_output_without_reward_tells_nothing(output):
    from arrol.integrations.verl.agent_loop import ReportedOutput

    told = []
    ReportedOutput.of(output, told.append).as_dict()
    assert told == []


def test_the_helper_reads_the_config_of_verl(tmp_path):
    plain = verl_host.plain_overrides(tmp_path)
    lines = verl_host.derived([*plain, "+arrol.probe_tokens=12"])
    assert "actor_rollout_ref.actor.ppo_mini_batch_size=2" in lines
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
    with pytest.raises(ConfigError, match="8 synthetic rows"):
        AgentLoopManager(config, None)


def test_a_prompt_keeps_its_name():
    from arrol.integrations.verl.manager import prompt_key

    messages = [{"role": "user", "content": "1+1="}]
    assert prompt_key(messages) == prompt_key(tuple(messages)) != prompt_key([{"role": "user", "content": "1+2="}])
