"""vLLM with two more arguments: half of each group of 8 is stopped at token 16. Half a minute on a CPU.

    arrol train configs/arithmetic-vllm.toml
    arrol export runs/arithmetic-vllm --to served --head-size 64
    python examples/03_vllm_offline.py served

Expected: about half of the completions come back with 16 tokens and `pruned:`, the others run to their end
(a completion that ends before token 16 is no candidate); the last line counts both and gives the share of right ones.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from arrol.engines.vllm import StopReport, pruning_args, push_estimator
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.tasks.arithmetic import ArithmeticTask


def main(folder: str) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        f"{folder}/policy",
        dtype="float32",
        enforce_eager=True,
        scheduler_cls="arrol.engines.vllm.PruningScheduler",
        worker_cls="arrol.engines.vllm.PruningWorker",
    )
    push_estimator(llm, EstimatorSnapshot.read(Path(folder) / "estimator.safetensors"))

    task = ArithmeticTask(llm.get_tokenizer(), min_ops=1, max_ops=5, seed=0)
    prompts = task.eval_prompts(32)
    sampling = [
        SamplingParams(
            n=8,
            seed=number,
            max_tokens=112,
            logprobs=0,  # this head reads the log-probabilities too
            extra_args=pruning_args(group=number, size=8, rule="balanced", keep_ratio=0.5, probe_tokens=16),
        )
        for number in range(len(prompts))
    ]
    answers = llm.generate([{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts], sampling)

    kept, right, stopped = 0, 0.0, 0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for completion in answer.outputs:
            report = StopReport.parse(completion.stop_reason)
            if report is not None and not report.keep:
                stopped += 1
            else:
                kept, right = kept + 1, right + task.verify(prompt, completion.text).reward
            if number < 2:
                print(number, len(completion.token_ids), completion.finish_reason, completion.stop_reason or "")
    print(f"kept {kept}, stopped {stopped}; of the kept {right / kept:.2f} are right")


if __name__ == "__main__":
    main(sys.argv[1])
