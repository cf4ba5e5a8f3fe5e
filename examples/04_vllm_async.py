"""``AsyncLLM``: two groups at once, stopped by confidence alone, one argument, any model. Half a minute on a CPU.

    python examples/04_vllm_async.py FOLDER        # of any model that vLLM serves, for example served/policy

Expected: of each group of six, three completions go on to their end, three stop at 8 tokens.
"""

import asyncio
import os
import sys
from typing import TYPE_CHECKING

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from arrol.engines.vllm import StopReport, pruning_args

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

QUESTIONS = ("53*3-73+12=", "60+10+97+29-64=")


async def ask(engine: "AsyncLLM", number: int) -> None:
    from vllm import SamplingParams

    params = SamplingParams(
        n=6,
        max_tokens=64,
        logprobs=0,
        extra_args=pruning_args(group=number, size=6, rule="confidence", keep_ratio=0.5, probe_tokens=8),
    )
    texts, ends = {}, {}
    async for answer in engine.generate(QUESTIONS[number], params, request_id=f"group-{number}"):
        for completion in answer.outputs:
            texts[completion.index] = completion.text
            ends[completion.index] = (len(completion.token_ids), completion.finish_reason, completion.stop_reason)
    for index in sorted(texts):
        tokens, finish, reason = ends[index]
        report = StopReport.parse(reason)
        stopped = f"stopped, confidence {report.score:.3f}" if report else finish
        print(f"group {number} completion {index}: {tokens:3} tokens, {stopped}: {texts[index][:40]!r}")


async def main(folder: str) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        folder,
        dtype="float32",
        enforce_eager=True,
        scheduler_cls="arrol.engines.vllm.ConfidenceScheduler",
    )
    engine = AsyncLLM.from_engine_args(arguments)
    try:
        await asyncio.gather(ask(engine, 0), ask(engine, 1))
    finally:
        engine.shutdown()
        del engine


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
