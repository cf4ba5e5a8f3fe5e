"""Advantages and losses beside their derivations by hand, in the two JSON files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arrol.algorithms.advantages import group_signal
from arrol.algorithms.losses import Denominator, LossInputs, policy_loss
from arrol.configs.method import DapoConfig, GrpoConfig

ADVANTAGES = json.loads((Path(__file__).parent / "advantages.json").read_text())
LOSSES = json.loads((Path(__file__).parent / "losses.json").read_text())


@pytest.mark.parametrize("case", ADVANTAGES["cases"], ids=lambda case: case["name"])
def test_advantages(case):
    group = {key: np.array(values, float) for key, values in (case.get("group") or ADVANTAGES["common"]).items()}
    signal = group_signal(
        group["reward"],
        group["survival"],
        group["quality"],
        GrpoConfig(**case["config"]),
        normalize_by_std=case.get("normalize_by_std", False),
    )
    np.testing.assert_allclose(signal.advantage_G, case["advantage"], atol=2e-7)
    np.testing.assert_allclose(signal.weight_G, case["weight"], atol=1e-12)
    assert signal.baseline == pytest.approx(case["baseline"], abs=1e-7)


def logs(rows):
    return torch.tensor([[0.5 if p is None else p for p in row] for row in rows], dtype=torch.float64).log()


@pytest.mark.parametrize("case", LOSSES["cases"], ids=lambda case: case["name"])
def test_losses(case):
    batch = {**LOSSES["common"], **case.get("change", {})}
    mask = torch.tensor([[0.0 if p is None else 1.0 for p in row] for row in batch["policy"]], dtype=torch.float64)
    inputs = LossInputs(
        logs(batch["policy"]),
        logs(batch["sampler"]),
        mask,
        torch.tensor(batch["advantage"], dtype=torch.float64),
        torch.tensor(batch["weight"], dtype=torch.float64),
        logs(batch["learner"]) if "learner" in batch else None,
        logs(batch["reference"]) if "reference" in batch else None,
    )
    settings = {k: case[k] for k in ("aggregation", "clip_ratio_high", "kl_coef", "importance_cap") if k in case}
    loss, sums = policy_loss(inputs, DapoConfig(**settings), Denominator(4.0, 5.0, 10))
    assert float(loss) == pytest.approx(case["loss"], abs=1e-6)
    for name, value in case["sums"].items():
        assert float(sums[name]) == pytest.approx(value, abs=1e-6), name
