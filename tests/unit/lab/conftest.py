"""A small pool with known gradients, and a config that it belongs to."""

import numpy as np
import pytest

from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.lab.pool import Pool

PROBES = (4, 8)


def make_pool(prompts=6, rollouts=40, size=8, seed=0, rates=(0.1, 0.9)):
    """Right rollouts share a direction, and one of their prompt; qualities tell right from wrong, with noise."""
    rng = np.random.default_rng(seed)
    rate_P = np.linspace(*rates, prompts)
    reward_PN = (rng.random((prompts, rollouts)) < rate_P[:, None]).astype(np.float32)
    reward_PN[:, 0], reward_PN[:, 1] = 1, 0
    length_PN = rng.integers(3, 20, (prompts, rollouts)).astype(np.int32)
    sketch_PND = rng.normal(size=(prompts, rollouts, size)).astype(np.float32)
    sketch_PND += reward_PN[..., None] * (2 + rng.normal(size=(prompts, 1, size))).astype(np.float32)
    logit_PNK = (2 * reward_PN - 1)[..., None] + rng.normal(size=(prompts, rollouts, len(PROBES)))
    quality_PNK = 1 / (1 + np.exp(-logit_PNK))
    quality_PNK[length_PN[..., None] < np.array(PROBES)] = np.nan
    config = validate(
        RunConfig,
        {
            "model": "m",
            "task": {"name": "arithmetic"},
            "training": {"prompts_per_step": 24, "group_size": 4},
            "sampling": {"max_completion_tokens": 24},
        },
    )
    return Pool(
        tuple(f"p{number}" for number in range(prompts)),
        reward_PN,
        length_PN,
        token_ids_T=np.arange(length_PN.sum(), dtype=np.int32),
        logprobs_T=-rng.random(int(length_PN.sum())).astype(np.float32),
        probe_tokens=PROBES,
        features_PNKF=np.zeros((prompts, rollouts, len(PROBES), 1), np.float16),
        quality_PNK=quality_PNK.astype(np.float32),
        sketch_PND=sketch_PND,
        meta={"config": config.model_dump(mode="json"), "seconds": {"generate_s": 2.0, "gradient_s": 6.0}},
    )


@pytest.fixture
def pool():
    return make_pool()


@pytest.fixture
def base(pool):
    from arrol.lab.merit import base_config

    return base_config(validate(RunConfig, pool.meta["config"]))
