"""Designs by default and from a file."""

import pytest

from arrol.errors import ConfigError
from arrol.lab.designs import allocation_designs, group_sizes, middle_probe, pruning_designs, read_designs
from arrol.lab.merit import design_config


def test_all_standard_designs_are_possible(pool, base):
    designs = [*group_sizes(), *pruning_designs(pool, 16), *allocation_designs(16)]
    assert len({design.name for design in designs}) == len(designs)
    for design in designs:
        design_config(base, design)
    assert middle_probe(pool) in pool.probe_tokens


def test_a_file_names_designs(tmp_path):
    (tmp_path / "d.toml").write_text('[[designs]]\nname = "a"\n[designs.change.training]\ngroup_size = 8\n')
    (design,) = read_designs(tmp_path / "d.toml")
    assert design.name == "a"
    assert design.change == {"training": {"group_size": 8}}


@pytest.mark.parametrize("text", ["", "designs = []", "[[designs]]\nchange = {}\n", '[[designs]]\nname = "a"\nx = 1\n'])
def test_a_wrong_file_is_one_line(tmp_path, text):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(ConfigError, match="designs"):
        read_designs(tmp_path / "d.toml")
