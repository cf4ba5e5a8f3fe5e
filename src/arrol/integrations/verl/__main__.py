"""``python -m arrol.integrations.verl <the overrides of your verl command>`` prints the overrides to add for pruning.

    derived=$(python -m arrol.integrations.verl "${args[@]}") && python -m verl.trainer.main_ppo "${args[@]}" $derived

Notes go to standard error. A command that cannot work gets one line there and exit code 2. ``--check`` tests a command
that has these overrides already, and the installation. Needs verl's files, but does not import verl.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from arrol.errors import ArrolError, ConfigError, MissingExtraError
from arrol.integrations.verl.batch import Config
from arrol.integrations.verl.derive import check, derived_overrides, notes
from arrol.integrations.verl.options import NAME
from arrol.integrations.verl.plugin import GROUP
from arrol.integrations.verl.plugin import NAME as PLUGIN

USAGE = "usage: python -m arrol.integrations.verl [--check] [--config-name=NAME] OVERRIDE ..."
CONFIG_FLAG = "--config-name="


def compose(arguments: Sequence[str]) -> Config:
    """verl's config with these overrides, resolved; ConfigError for what Hydra refuses."""
    name, overrides = "ppo_trainer", [argument for argument in arguments if not argument.startswith("-")]
    for flag in [argument for argument in arguments if argument.startswith("-")]:
        if not flag.startswith(CONFIG_FLAG):
            raise ConfigError(f"flag = {flag!r}: unknown; use {CONFIG_FLAG}NAME, --check or Hydra overrides")
        name = flag.removeprefix(CONFIG_FLAG).removesuffix(".yaml")
    bare = [override for override in overrides if override.startswith(f"{NAME}.")]
    if bare:
        raise ConfigError(f"{bare[0]}: verl's config has no key {NAME!r}; write +{bare[0]}")
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise MissingExtraError("verl: not installed; run: pip install '.[verl]' in a checkout of arrol")
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(Path(spec.origin).parent / "trainer" / "config"), version_base=None):
            return OmegaConf.to_container(compose(name, overrides=overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"overrides: {str(error).strip().splitlines()[0]}; correct that override") from None


def installation() -> list[str]:
    """Versions; ConfigError where verl would not load the entry point."""
    found = [entry for entry in metadata.entry_points(group=GROUP) if entry.name == PLUGIN]
    if not found:
        raise ConfigError(
            f"{GROUP} = none named {PLUGIN!r}: arrol is not installed here; run: pip install . in a checkout of arrol"
        )
    try:
        found[0].load()
    except Exception as error:  # any failure: verl would hide it
        raise ConfigError(f"{GROUP}.{PLUGIN}: does not load ({error!r}); reinstall arrol") from None
    return [f"{name} {metadata.version(name)}" for name in ("arrol", "verl", "ray", "torch")]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, __doc__, sep="\n\n")  # noqa: T201
        return 0
    command = [argument for argument in arguments if argument != "--check"]
    try:
        if command == arguments:
            config = compose(command)
            lines = derived_overrides(config)
            print(*(f"note: {note}\n" for note in notes(config)), sep="", end="", file=sys.stderr)  # noqa: T201
        else:
            lines = installation()
            if command:
                options = check(compose(command))
                lines.append(f"rule {options.host.pruning.rule}, way {options.way}: sound")
    except ArrolError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(*lines, sep="\n")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
