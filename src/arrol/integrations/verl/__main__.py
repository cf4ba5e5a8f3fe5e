"""``python -m arrol.integrations.verl <the overrides of your verl command>`` prints what to add for pruning.

    derived=$(python -m arrol.integrations.verl "${args[@]}") && python -m verl.trainer.main_ppo "${args[@]}" $derived

Exit code 2 and one line on standard error for a command that would go wrong. ``--check`` judges a command that has its
lines already, and the installation: whether the entry point loads, which verl logs at level DEBUG only. Needs verl's
files, but does not import verl.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from arrol.errors import ArrolError, ConfigError, MissingExtraError
from arrol.integrations.verl.derive import check, derived_overrides, notes
from arrol.integrations.verl.plugin import GROUP, NAME

USAGE = "usage: python -m arrol.integrations.verl [--check] [--config-name=NAME] OVERRIDE ..."
CONFIG_FLAG, CONFIG_NAME = "--config-name=", "ppo_trainer"


def compose(arguments: Sequence[str]) -> dict[str, Any]:
    """verl's config with these overrides, resolved; ConfigError for what Hydra refuses."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    name = CONFIG_NAME
    for flag in flags:
        if not flag.startswith(CONFIG_FLAG):
            raise ConfigError(f"flag = {flag!r}: not understood here; only {CONFIG_FLAG}NAME is, written as one word")
        name = flag.removeprefix(CONFIG_FLAG).removesuffix(".yaml")
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise MissingExtraError('verl: not installed here; run: pip install "arrol[verl]"')
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(Path(spec.origin).parent / "trainer" / "config"), version_base=None):
            config = compose(name, overrides=overrides)
        return OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"overrides: {str(error).strip().splitlines()[0]}; mend that override") from None


def installation() -> list[str]:
    """Versions, and that the entry point is found and loads."""
    found = [entry for entry in metadata.entry_points(group=GROUP) if entry.name == NAME]
    if not found:
        raise ConfigError(f"{GROUP} = none named {NAME!r}: arrol is not installed here; run: pip install arrol")
    try:
        found[0].load()
    except Exception as error:  # whatever it is, verl would hide it
        raise ConfigError(f"{GROUP}.{NAME}: does not load ({error!r}); reinstall arrol") from None
    return [f"{name} {metadata.version(name)}" for name in ("arrol", "verl", "ray", "torch")]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, __doc__, sep="\n\n")  # noqa: T201
        return 0
    only_check = "--check" in arguments
    command = [argument for argument in arguments if argument != "--check"]
    try:
        if only_check:
            lines = installation()
            if command:
                options = check(compose(command))
                lines.append(f"rule {options.host.pruning.rule}, way {options.way}: sound")
        else:
            config = compose(command)
            lines = derived_overrides(config)
            for note in notes(config):
                print(f"note: {note}", file=sys.stderr)  # noqa: T201
    except ArrolError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for line in lines:
        print(line)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
