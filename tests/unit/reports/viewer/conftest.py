"""The run that these tests show."""

import pytest

from viewer_runs import SmallRun, run_row


@pytest.fixture
def small(tmp_path):
    """A run that was opened and did no step yet."""
    run = SmallRun(tmp_path / "small")
    run.records(run_row())
    return run
