"""Run by ``torchrun``, once per rank: train each of the named cases, and write what this rank ended with."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trl_host
from arrol.errors import ConfigError
from arrol.records.store import read_run
from arrol.records.texts import read_texts, text_steps


def train(folder, **changes):
    """What this process ends with; an unfit setting is its message."""
    try:
        host = trl_host.trainer(trl_host.config(folder, **changes))
    except ConfigError as error:
        return {"refused": str(error)}
    host.train()
    if host.pruned is None:
        return {"records": recorded(folder)}
    return {
        "ranks": host.accelerator.num_processes,
        "weights": trl_host.weights(host).tolist(),
        "head": host.pruned.memory.estimator.snapshot().to_bytes().hex(),
        "probes": list(host.pruned.memory.probe_tokens),
        "survivors": sum(rollout.survived for rollout in host.pruned.batch.rollouts),
        "choices": trl_host.history(host, "arrol/pruning/auto/merit"),
        "records": recorded(folder),
        "generated": trl_host.history(host, "arrol/tokens/generated"),
    }


def texts(group):
    """Text of each rollout."""
    return ["".join(group["tokens"][at] for at in row["tokens"]) for row in group["rollouts"]]


def recorded(folder):
    """What the record says of each rollout: the main process has written those of all ranks."""
    run = read_run(Path(folder) / "arrol")
    groups = [group for step in text_steps(run.folder) for group in json.loads(read_texts(run.folder, step))["groups"]]
    return {
        "rows": [[r.step, r.group, r.index, r.prompt_key, r.finish_reason, r.reward, r.keep] for r in run.rollouts],
        "texts": [[group["group"], group["prompt"], group["gold"], texts(group)] for group in groups],
        "segments": sorted({r.segment for r in run.rollouts}),
    }


if __name__ == "__main__":
    import torch

    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    results = {name: train(folder / name, **changes) for name, changes in cases.items()}
    (folder / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(results))
