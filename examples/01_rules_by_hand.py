"""Prune a list of numbers by hand: qualities in, survival out, one exact-count draw. Less than a second, no model.

    python examples/01_rules_by_hand.py

Expected: `paper` keeps the fewest right rollouts (share .273), `neyman` .375, `balanced` .438, from a group whose mean
quality is .331. They are the worked example of docs/method.md.
"""

import numpy as np

from arrol.configs.method import BalancedRule, NeymanRule, PaperRule, UniformRule
from arrol.pruning.draws import systematic
from arrol.pruning.survival import RULES, Candidates

quality_C = np.array([0.05, 0.10, 0.20, 0.20, 0.30, 0.40, 0.60, 0.80])
candidates = Candidates(quality_C, group_C=np.zeros(8, int), recent_quality_B=quality_C)

print("quality   ", quality_C)
for config in (UniformRule(), PaperRule(), BalancedRule(scope="buffer"), NeymanRule()):
    survival_C = RULES[config.rule](candidates, config, config.keep_ratio)
    share = float((quality_C * survival_C).sum() / survival_C.sum())
    kept = systematic(survival_C, [0, 1])
    print(
        f"{config.rule:10}",
        survival_C.round(4),
        f"expected share of right survivors {share:.3f}, kept {np.flatnonzero(kept)}",
    )
