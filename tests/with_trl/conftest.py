"""Real TRL, small models, no network. ``make test-trl`` runs this folder in environments of its own."""

import trl_host

collect_ignore_glob = [] if trl_host.has_trl() else ["test_*.py"]


def pytest_configure(config):
    """TRL and what it loads warn of each other's future; our own warnings are errors here as everywhere."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", "error:::arrol")


def pytest_report_header(config):
    """Both ends of the supported range run the same tests; say which one this is."""
    if not trl_host.has_trl():
        return "TRL is not installed: make test-trl"
    from importlib.metadata import version

    return f"TRL {version('trl')}, transformers {version('transformers')}"
