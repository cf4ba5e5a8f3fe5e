"""Checkpoints: all or nothing, safetensors and JSON, no pickle.

Layout of ``RUN/checkpoints/step-000020``::

    policy/               a plain save_pretrained folder with its tokenizer: usable anywhere; with LoRA its adapters
    optimizer.safetensors moments of AdamW by parameter number
    state.safetensors     arrays of everything else that learns (estimator, controller, random states)
    state.json            the rest, with the config and the step
    manifest.json         sums of all these files, and of the run's records at that moment

A folder is written under a hidden name, flushed to disk and then renamed; one to be deleted is renamed first. So a
folder without that prefix was written as a whole, and whatever goes wrong while saving, older checkpoints stay. What
happens to its files later is found by their sums before anything is loaded (``records/manifest.py``).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors

from arrol.errors import ArrolError, CheckpointError
from arrol.records.manifest import MANIFEST, Manifest, Sum, damage_below, read_manifest, write_manifest
from arrol.records.state import is_sealed, read_state, write_state
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE
from arrol.records.texts import texts_damage
from arrol.training.model_files import damage, is_adapter_folder
from arrol.types import State

if TYPE_CHECKING:  # a run's folder is looked at before torch is loaded
    import torch

PREFIX, PARTIAL, ASIDE = "step-", ".partial-", ".damaged-"
SAMPLED = ("policy/", "state.")
"""Parts of a checkpoint that sampling needs."""
PATHS = ("model", "task.source", "task.eval_source", "task.reward_folder")
"""Fields that name the same thing differently from another working directory."""
MODEL_CARD = "README.md"
"""Which peft writes beside adapters, with blanks."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a full quota, a file size limit."""


class Content(NamedTuple):
    """What a checkpoint is made of."""

    model: Any
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    state: State
    run: Mapping[str, Sum] = MappingProxyType({})
    """Sums of the run's own files at this moment."""


def save_checkpoint(folder: Path, step: int, saved: Content) -> Path:
    """Write step's checkpoint below ``folder``; CheckpointError when the disk refuses."""
    from safetensors.torch import save_file

    final, partial = folder / f"{PREFIX}{step:06d}", folder / f"{PARTIAL}{step:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_policy(partial / "policy", saved.model, saved.tokenizer)
        save_file(_optimizer_tensors(saved.optimizer), partial / "optimizer.safetensors")
        write_state(partial, "state", saved.state)
        write_manifest(partial, saved.run)
        flush(partial)
        if final.exists():  # a damaged one, from which no run was resumed
            _delete(final)
        os.replace(partial, final)
        _flush_folder(folder)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_save_message(folder, error)) from None
    return final


def save_policy(folder: Path, model: Any, tokenizer: Any) -> None:
    """A plain ``save_pretrained`` folder, of a ``PeftModel`` its adapters alone; OSError when the disk refuses, however
    the libraries below put it."""
    try:
        model.save_pretrained(folder)
        (folder / MODEL_CARD).unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers reports a full disk as a bare Exception, safetensors as one of its own
        if type(error) not in (Exception, safetensors.SafetensorError):
            raise
        raise OSError(errno.EIO, str(error), str(folder)) from None


def forget_checkpoints(folder: Path, keep: int, newest: int) -> None:
    """Delete all but the newest ``keep`` up to the one of step ``newest``, later ones and damaged ones included."""
    found = _complete(folder)
    current = [path for path in found if step_of(path) <= newest][-keep:]
    for old in (*found, *folder.glob(f"{ASIDE}*")):
        if old not in current:
            _delete(old)


def set_aside(folder: Path, after: int) -> None:
    """Hide the checkpoints behind step ``after``, which are damaged; the next one that is saved replaces them."""
    for path in _complete(folder):
        if step_of(path) > after:
            hidden = path.with_name(f"{ASIDE}{path.name}")
            shutil.rmtree(hidden, ignore_errors=True)
            os.replace(path, hidden)


def forget_partial(folder: Path) -> None:
    """Remove what a crash left half written or half deleted; only for the process that writes the run."""
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, None when there is none. Nothing is changed: a run may be writing there."""
    found = _complete(folder)
    return found[-1] if found else None


def sound_checkpoint(folder: Path, say: Callable[[str], None], parts: Sequence[str] = ("",)) -> Path | None:
    """The newest checkpoint of which the files that begin with ``parts`` are as they were written, with all parts the
    run's records too. ``say`` hears of damage. None without any checkpoint; CheckpointError where all are damaged."""
    damaged: list[str] = []
    for path in reversed(_complete(folder)):
        found = _damage(path, say, parts)
        if not found:
            for line in damaged:
                say(f"checkpoint {line}; {path.name} is used")
            return path
        damaged.append(f"{path.name}: {found}")
    if not damaged:
        return None
    policies = (path for path in reversed(_complete(folder)) if not _damage(path, lambda _: None, ("policy/",)))
    policy = next(policies, None)
    start = f" with --model {policy / 'policy'}" if policy else ""
    raise CheckpointError(
        f"checkpoint = {str(folder)!r}: {'; '.join(damaged)}; none is whole: copy the damaged files back, or begin "
        f"another run{start} and another --name"
    )


def manifest_of(checkpoint: Path) -> Manifest:
    """Its manifest; an empty one for a checkpoint of a release without. ValueError for a damaged one."""
    return read_manifest(checkpoint) or Manifest({}, {})


def step_of(checkpoint: Path) -> int:
    """The step after which it was saved."""
    return int(checkpoint.name.removeprefix(PREFIX))


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` was given as ``state``."""
    try:
        return read_state(checkpoint, "state")
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        names = ("state.json", "state.safetensors")
        absent = [name for name in names if not (checkpoint / name).is_file()]
        broken = absent or [name for name in names if damage(checkpoint / name)] or names[:1]
        raise damaged(checkpoint, broken[0]) from None


@contextmanager
def reading(checkpoint: Path, part: str) -> Iterator[None]:
    """CheckpointError where the block fails on values of another type or shape: a part of a release without sums is
    not checked before it is loaded. An error for want of memory passes."""
    try:
        yield
    except ArrolError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        from arrol.engines.embedded.memory import is_shortage

        if is_shortage(error):
            raise
        raise damaged(checkpoint, part) from None


def damaged(checkpoint: Path, part: str) -> CheckpointError:
    """The error for a checkpoint of which a part cannot be read."""
    older = [path for path in _complete(checkpoint.parent) if path != checkpoint]
    remedy = "delete that folder to go on from an older one" if older else "it is the only one, so give another --name"
    return CheckpointError(f"checkpoint = {str(checkpoint)!r}: {part} is damaged or absent; {remedy}")


def require_policy(checkpoint: Path) -> None:
    """CheckpointError where a file of the policy is absent or damaged; only headers are read."""
    folder = checkpoint / "policy"
    found = [path for path in sorted(folder.glob("*")) if path.suffix in (".json", ".safetensors")]
    broken = [path.name for path in found if damage(path)]
    if not (folder / "config.json").is_file() and not is_adapter_folder(folder):
        broken = ["config.json"]
    if not broken and not any(path.suffix == ".safetensors" for path in found):
        broken = ["adapter_model.safetensors" if is_adapter_folder(folder) else "model.safetensors"]
    if broken:
        raise damaged(checkpoint, f"policy/{broken[0]}")


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Moments and the last learning rate back into a fresh optimiser over the same parameters."""
    from safetensors.torch import load_file

    try:
        flat = load_file(checkpoint / "optimizer.safetensors")
    except (OSError, safetensors.SafetensorError):
        raise damaged(checkpoint, "optimizer.safetensors") from None
    moments: dict[int, dict[str, torch.Tensor]] = {}
    with reading(checkpoint, "optimizer.safetensors"):
        for key, value in flat.items():
            number, name = key.split(".", 1)
            moments.setdefault(int(number), {})[name] = value
        _require_moments(optimizer, moments)
    groups = [{**group, "lr": rate} for group in optimizer.state_dict()["param_groups"]]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def require_same_config(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    free: frozenset[str],
    *,
    where: str = "checkpoint",
    path: str = "",
) -> None:
    """CheckpointError naming the first field in which the config saved ``where`` differs from the run's."""
    for key in sorted({*saved, *current}):
        name, old, new = f"{path}{key}", saved.get(key), current.get(key)
        if name in free:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            require_same_config(old, new, free, where=where, path=f"{name}.")
        elif old != new and not (name in PATHS and _is_same_path(old, new)):
            raise CheckpointError(
                f"{name} = {new!r}: the {where} was made with {old!r}; "
                "resume with that value or give the run another name"
            )


def _is_same_path(old: object, new: object) -> bool:
    """True for one path as seen from two working directories: the parts of one end with those of the other."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    parts = [[part for part in Path(text).parts if part != ".."] for text in (old, new)]
    short, long = sorted(parts, key=len)
    return bool(short) and long[-len(short) :] == short


def _require_moments(optimizer: torch.optim.Optimizer, moments: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
    """ValueError for moments that are not of the optimizer's weights: AdamW would take them and fail in its step."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, values in moments.items():
        if not 0 <= number < len(weights) or any(
            value.dim() and value.shape != weights[number].shape for value in values.values()
        ):
            raise ValueError(f"moments of weight {number}")


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{number}.{name}": value.contiguous()
        for number, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def _damage(checkpoint: Path, say: Callable[[str], None], parts: Sequence[str]) -> str:
    """What is wrong with a checkpoint, empty for a whole one; ``say`` hears what does not matter to it."""
    try:
        manifest = read_manifest(checkpoint)
    except ValueError as error:
        return str(error)
    if manifest is None and is_sealed(checkpoint, "state"):
        return f"{MANIFEST} is absent"
    if manifest is None:
        require_policy(checkpoint)
        say(f"checkpoint {checkpoint.name} has no {MANIFEST}, as of older releases, so its files were not checked")
        return ""
    found = damage_below(checkpoint, manifest.files, parts)
    if "" in parts:
        run = checkpoint.parents[1]
        found += damage_below(run, manifest.run, (RECORDS_FILE, ROLLOUTS_FILE))
        for line in [] if found else texts_damage(run, manifest.run):
            say(line)
    return ", ".join(found)


def _complete(folder: Path) -> list[Path]:
    """Checkpoints that were written as a whole, oldest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def _delete(checkpoint: Path) -> None:
    """Hidden first: a half-deleted folder must not look whole after a crash."""
    hidden = checkpoint.with_name(f"{PARTIAL}old-{checkpoint.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def flush(folder: Path) -> None:
    """Wait until everything below a folder is on disk; OSError when the disk refuses."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # other systems cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _save_message(folder: Path, error: Exception) -> str:
    number, text = getattr(error, "errno", None), str(getattr(error, "strerror", None) or error)
    full = number in NO_SPACE or any(f"os error {code})" in text for code in NO_SPACE)
    reason = "the disk is full" if full else text.splitlines()[0]
    remedy = "free some space" if full else "make the folder writable"
    return (
        f"out_dir = {str(folder.parents[1])!r}: the checkpoint could not be saved, {reason}; "
        f"{remedy} and go on with --resume, older checkpoints are intact"
    )
