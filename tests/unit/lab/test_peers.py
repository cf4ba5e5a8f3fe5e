"""Published rules as designs: all are possible and play, and what is known of their bias is found."""

from dataclasses import replace

import numpy as np

from arrol.lab.merit import design_config, judge
from arrol.lab.peers import duet_probe, peer_designs


def test_every_peer_plays_on_a_pool(pool, base):
    designs = peer_designs(pool, 8, 96)
    assert [design.name.split(",")[0] for design in designs] == [
        "duet sizes", "duet stop at 8", "duet", "sara", "aero_cited"
    ]  # fmt: skip
    for design in designs:
        config = design_config(base, design)
        found = judge(pool, design, base, visits=2)
        assert np.isfinite(found.error_P).all()
        rows = config.training.prompts_per_step * config.training.group_size
        assert rows == 96
        if design.name == "aero_cited":
            assert config.allocation.rollout_budget == 2 * rows
            assert 8 <= found.group_size <= 16
        elif "stop" in design.name:
            assert found.kept < 0.7


def test_duet_stops_beyond_the_quantile_where_a_probe_lies_there(pool):
    """Four fifths of the lengths are at most 16; times 100 a probe 150 tokens beyond is possible."""
    long = replace(pool, length_PN=pool.length_PN * 100, probe_tokens=(400, 1600, 1700))
    assert np.quantile(long.length_PN, 0.8) == 1600
    assert duet_probe(pool) == 8
    assert duet_probe(long) == 1600
    assert duet_probe(replace(long, probe_tokens=(1600, 1720, 1800))) == 1720
    assert duet_probe(replace(pool, probe_tokens=(300,))) is None
