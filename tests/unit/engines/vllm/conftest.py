"""What we write to vLLM's log."""

import pytest


@pytest.fixture
def said(monkeypatch):
    """Lines in order, of any level."""
    from arrol.engines.vllm import compat

    lines = []
    monkeypatch.setattr(compat.logger, "info", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(compat.logger, "warning", lambda text, *values: lines.append(text % values))
    return lines
