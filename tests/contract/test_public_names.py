"""The front door: at most 20 names, sorted, all there."""

from importlib import import_module

import pytest

import arrol


def test_names_are_few_sorted_and_complete():
    assert len(arrol.__all__) <= 20
    assert list(arrol.__all__) == sorted(set(arrol.__all__))
    assert dir(arrol) == arrol.__all__
    assert set(arrol.__all__) == set(arrol._HOME)


@pytest.mark.parametrize("name", arrol.__all__)
def test_each_name_is_the_one_of_its_home(name):
    value = getattr(arrol, name)
    assert value is getattr(import_module(arrol._HOME[name]), name)
    assert value.__doc__


def test_any_other_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'arrol' has no attribute 'Trainer'$"):
        arrol.Trainer  # noqa: B018
