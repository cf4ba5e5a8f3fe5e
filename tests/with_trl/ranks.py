"""Run by ``torchrun`` or ``accelerate launch``, once per rank: train, and write what this rank ended with."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trl_host

folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
host = trl_host.trainer(trl_host.config(folder / "run", **changes))
host.train()
rank = host.accelerator.process_index
result = {
    "ranks": host.accelerator.num_processes,
    "weights": trl_host.weights(host).tolist(),
    "head": host.pruned.memory.estimator.snapshot().to_bytes().hex(),
    "probes": list(host.pruned.memory.probe_tokens),
    "survivors": sum(rollout.survived for rollout in host.pruned.batch.rollouts),
    "generated": trl_host.history(host, "arrol/tokens/generated"),
}
(folder / f"rank-{rank}.json").write_text(json.dumps(result))
