"""Where every code block and command of README and docs runs; ``tests/docs`` refuses one that is not here.

``main`` runs in ``tests/docs``, a host's in ``tests/with_HOST/test_documents.py``; ``test`` names the file that runs it
already, and a word of it; ``nowhere`` says why it cannot run here.
"""

from documents import Row

SMALL = "--training.steps 2 --training.group_size 4 --evaluation.num_prompts 4 --sampling.max_completion_tokens 24"
SMALL += " --training.prompts_per_step 2 --pruning.warmup_steps 0"
DATA = ('docs/quickstart.md: {"prompt": "53*3-73+12=", "answer": "98"}',)
DATA += ('docs/quickstart.md: {"prompt": "12*4-9=", "answer": "39"}',)
REWARDS = "docs/quickstart.md: def correct(completions, answer, **columns):"
IMPORT = "from arrol.integrations.trl import GRPOConfig, GRPOTrainer  # was: from trl import GRPOConfig, GRPOTrainer"
OUT = ('"out",', '"runs/out", use_cpu=True, bf16=False,')
MODEL = ('"Qwen/Qwen3-1.7B"', "model_folder")
TRL_PYTHON, VLLM_PYTHON = "OMP_NUM_THREADS=1 .venv-trl/bin/python", ".venv-vllm/bin/python"
ONE_STEP = "--steps 1"
TINY_TRL = "--max_steps 1 --max_completion_length 24 --per_device_train_batch_size 16 --gradient_accumulation_steps 1"
YAML = "configs/trl-arithmetic.yaml"
WRITE_DATA = ".venv-trl/bin/python examples/06_trl.py --write-data runs/arithmetic-data"
WARM = "arrol sft warm.toml"
ADAPTERS = "arrol train configs/arithmetic.toml --name adapters --lora.r 16 --optimizer.learning_rate 1e-3"
EVAL = (
    "arrol eval configs/arithmetic.toml --evaluation.samples_per_prompt 16 --evaluation.num_prompts 100 --confidences"
)
LAB = "arrol lab configs/arithmetic.toml --out runs/pool.safetensors"
COMPLETIONS = 'docs/should-i-prune.md: {"prompt": "12*4-9=", "completion": "39", "reward": 1, "num_tokens": 3,'
COMPLETIONS += ' "finish_reason": "stop", "logprobs": [-0.1, -0.2, -0.1]}'
TRAIN_VLLM = ".venv-vllm/bin/arrol train configs/arithmetic-vllm.toml"
EXPORT = ".venv-vllm/bin/arrol export runs/arithmetic-vllm --to served --head-size 64"
CLASSES = "--logits-processors arrol.engines.vllm:RequestCheck"
CLASSES += " --scheduler-cls arrol.engines.vllm.PruningScheduler --worker-cls arrol.engines.vllm.PruningWorker"
WEIGHTS = """--weight-transfer-config '{"backend": "nccl"}' --logprobs-mode processed_logprobs"""
SERVE = "VLLM_CPU_KVCACHE_SPACE=1 ARROL_ESTIMATOR=served/estimator.safetensors .venv-vllm/bin/python"
SERVE += " -m vllm.entrypoints.openai.api_server --model served/policy --dtype float32 --enforce-eager"
SERVE += f" --host 127.0.0.1 --port 8000 {CLASSES}"
MANAGER = "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=arrol.integrations.verl.AgentLoopManager"
CLIENT = "examples/05_vllm_serve.py http://127.0.0.1:8000/v1"
PUSH = 'curl --fail --data-binary @served/estimator.safetensors -H "Authorization: Bearer $ARROL_PUSH_TOKEN"'
PUSH += " http://127.0.0.1:8000/arrol/estimator"
VERL_QUICKSTART = "bash examples/07_verl_quickstart.sh"
VERL_ARGS = "args=( data.train_files=... data.max_response_length=2048 actor_rollout_ref.rollout.n=8 ..."
VERL_ARGS += " +arrol.rule=neyman +arrol.keep_ratio=0.5 +arrol.probe_tokens=512 )"
NODES = "tests/with_verl/test_nodes.py: 08_verl_multinode.sh"
CI = "a target of .ci/run"
SETUP = "sets an environment up; make test-HOST of .ci/run does the same"
INSTALL = "installs a package; the pinned environments of make have it"
GPU = "sends weights by NCCL, which needs a GPU; the flags run without it in tests/with_trl/test_vllm.py"
DRAWING = "a drawing"
MINUTES = "computes for many minutes; its parts run in the tests of its host"

TABLE = {
    # README, CONTRIBUTING, benchmarks
    "make demo": Row(
        "main",
        run="arrol demo --run.training.steps 1 --run.training.prompts_per_step 2"
        " --run.training.group_size 4 --run.evaluation.num_prompts 4 --run.sampling.max_completion_tokens 24",
    ),
    "make test": Row("nowhere", why=CI),
    "make check": Row("nowhere", why=CI),
    "make audit": Row("nowhere", why=CI),
    "make gpu-check": Row("nowhere", why="needs a GPU; tests/integration/test_gpu_check.py runs its parts on a CPU"),
    "make docs": Row("nowhere", why=CI),
    "make test-vllm": Row("nowhere", why=CI),
    "make test-trl": Row("nowhere", why=CI),
    "make test-verl": Row("nowhere", why=CI),
    "make trl-env": Row("nowhere", why=SETUP),
    "make vllm-env": Row("nowhere", why=SETUP),
    "make verl-env": Row("nowhere", why=SETUP),
    f"README.md: {IMPORT}": Row("trl", swaps=(MODEL, ("2048", "512"), ("[512]", "[64]"), OUT)),
    "OMP_NUM_THREADS=1 python benchmarks/generation.py": Row(
        "test", why="tests/integration/test_benchmarks.py: generation"
    ),
    "OMP_NUM_THREADS=1 python benchmarks/pruning.py": Row("test", why="tests/integration/test_benchmarks.py: pruning"),
    "OMP_NUM_THREADS=1 .venv-trl/bin/python benchmarks/trl_step.py": Row("trl", run="+ --smoke --out runs/step.jsonl"),
    "OMP_NUM_THREADS=1 .venv-trl/bin/python benchmarks/trl_arms.py": Row("nowhere", why=MINUTES),
    "OMP_NUM_THREADS=1 .venv-trl/bin/python benchmarks/trl_async_arms.py": Row("nowhere", why=MINUTES),
    "OMP_NUM_THREADS=1 .venv-trl/bin/python benchmarks/trl_smollm2.py": Row("nowhere", why=MINUTES),
    "OMP_NUM_THREADS=1 .venv/bin/python benchmarks/generation_smollm2.py": Row("nowhere", why=MINUTES),
    ".venv-verl/bin/python benchmarks/verl_arms.py --out results/verl": Row("nowhere", why=MINUTES),
    "OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_pruning.py": Row("nowhere", why=MINUTES),
    # docs/quickstart.md
    DATA[0]: Row("main", save="data/train.jsonl"),
    DATA[1]: Row("main", save="data/test.jsonl"),
    "docs/quickstart.md: import os": Row("trl", after=DATA, swaps=(("max_steps=8", "max_steps=1"),)),
    'docs/quickstart.md: name = "mine"': Row("main", save="mine.toml"),
    REWARDS: Row("main", save="my_rewards.py"),
    "arrol info mine.toml": Row("main", after=('docs/quickstart.md: name = "mine"',)),
    "arrol train mine.toml": Row(
        "main",
        run=f"+ {SMALL}",
        after=('docs/quickstart.md: name = "mine"', *DATA, REWARDS),
    ),
    "arrol eval runs/mine --evaluation.samples_per_prompt 8": Row("main", after=("arrol train mine.toml",)),
    "arrol train examples/09_own_reward/own.toml": Row("main", run=f"+ {SMALL}"),
    "arrol view runs/mine": Row("test", why="tests/unit/cli/test_view.py: view"),
    "arrol report runs/mine": Row("main", after=("arrol train mine.toml",)),
    "arrol init data --model arithmetic-base --out first.toml": Row("main", after=DATA),
    "arrol train first.toml": Row(
        "main",
        run="+--training.steps 1 --training.group_size 4 --sampling.max_completion_tokens 140",
        after=("arrol init data --model arithmetic-base --out first.toml",),
    ),
    "docs/quickstart.md: import arrol": Row("main"),
    ".venv/bin/python examples/10_from_python.py": Row("main"),
    "docs/quickstart.md: from arrol.tasks.dataset import DatasetTask": Row("main", after=DATA),
    "docs/settings.md: [allocation]": Row("main", save="allocation.toml"),
    "docs/settings.md: [lora]": Row("main", save="lora.toml"),
    ADAPTERS: Row("main", run=f"+ {SMALL}"),
    "arrol export runs/adapters --to served": Row("main", after=(ADAPTERS,)),
    ".venv/bin/python examples/01_rules_by_hand.py": Row("main"),
    ".venv/bin/python examples/02_own_loop.py 20": Row("main", run="python examples/02_own_loop.py 1"),
    # docs/data.md
    "docs/data.md: def reward(completions, gold, **columns):": Row("main"),
    "docs/data.md: [task]": Row("main", save="rewards.toml"),
    'docs/data.md: name = "warm"': Row("main", save="warm.toml"),
    WARM: Row(
        "main",
        run=f"{WARM} --steps 2 --checkpoint_every 1 --batch_size 2 --eval_prompts 2 --max_completion_tokens 24",
        after=('docs/data.md: name = "warm"', *DATA),
    ),
    "arrol train mine.toml --model runs/warm/model --name after": Row(
        "main", run=f"+ {SMALL}", after=(WARM, 'docs/quickstart.md: name = "mine"', REWARDS)
    ),
    # docs/algorithms, docs/test_time.md, docs/tour.md
    "docs/algorithms/allocation.md: [allocation]": Row("main", save="allocation.toml"),
    EVAL: Row("main", run=EVAL.replace("num_prompts 100", "num_prompts 6")),
    # docs/method.md
    "docs/method.md: [pruning]": Row("main", save="stops.toml"),
    # docs/lab.md
    LAB: Row("main", run="+ --prompts 6 --rollouts 12 --sketch-size 16 --visits 2"),
    "arrol lab runs/pool.safetensors": Row("main", run="+ --visits 2", after=(LAB,)),
    "make lab": Row("test", why="tests/integration/test_benchmarks.py: lab"),
    "docs/lab.md: [[designs]]": Row("main", save="designs.toml"),
    "arrol lab runs/pool.safetensors --designs designs.toml --cost flops --cost 7b": Row(
        "main", run="+ --visits 2", after=(LAB, "docs/lab.md: [[designs]]")
    ),
    # docs/should-i-prune.md
    "arrol advise out/completions": Row("main", run="arrol advise completions.jsonl", after=(COMPLETIONS,)),
    COMPLETIONS: Row("main", save="completions.jsonl"),
    "arrol advise completions.jsonl": Row("main", after=(COMPLETIONS,)),
    "arrol advise runs/pool.safetensors": Row("main", run="+ --visits 1", after=(LAB,)),
    "arrol advise runs/pool.safetensors --cost 7b --cost flops --group-size 8 --plots runs/plots": Row(
        "main", run="+ --visits 1", after=(LAB,)
    ),
    "docs/lab.md: import numpy as np": Row("main", after=(LAB,)),
    "arrol vote --samples runs/arithmetic/samples.jsonl --window 16": Row("main", after=(EVAL,)),
    "docs/tour.md: cli > reports | integrations > training | evaluation > assembly > engines > pruning | algorithms |"
    " tasks | test_time": Row("nowhere", why=DRAWING),
    # docs/trl.md
    "pip install '.[trl]'": Row("nowhere", why=INSTALL),
    f"docs/trl.md: {IMPORT}": Row("trl"),
    f"{TRL_PYTHON} examples/06_trl.py": Row("trl", run=f"+ {ONE_STEP}"),
    f"{TRL_PYTHON} examples/06_trl.py --rule never": Row("test", why="tests/with_trl/test_training.py: never"),
    WRITE_DATA: Row("trl"),
    f".venv-trl/bin/arrol grpo --config {YAML}": Row(
        "trl",
        run=f"+ {TINY_TRL}",
        after=(WRITE_DATA,),
    ),
    f".venv-trl/bin/accelerate launch --module arrol.cli.main grpo --config {YAML}": Row(
        "test", why="tests/with_trl/test_cli.py: accelerate"
    ),
    f"VLLM_SERVER_DEV_MODE=1 vllm serve MODEL {WEIGHTS} {CLASSES}": Row("nowhere", why=GPU),
    "docs/trl.md: import trl": Row("trl", swaps=(MODEL, ("2048", "512"), OUT)),
    # docs/trl-async.md; the command of the server is that of docs/trl.md
    "docs/trl-async.md: from transformers import AutoTokenizer": Row("nowhere", why=GPU),
    "docs/trl-async.md: from arrol.integrations.trl import LocalPolicy, PrunedRolloutWorker, on_cpu": Row(
        "trl",
        swaps=(
            MODEL,
            ("=2048", "=24"),
            ("[512]", "[8]"),
            ('"out",', '"runs/async",'),
            (" dataset, accuracy_reward", " text_rows, parity"),
        ),
    ),
    # docs/vllm.md
    TRAIN_VLLM: Row("vllm", run=f"+ {SMALL}"),
    EXPORT: Row("vllm", after=(TRAIN_VLLM,)),
    f"{VLLM_PYTHON} examples/03_vllm_offline.py served": Row("vllm", after=(EXPORT,)),
    "docs/vllm.md: from vllm import LLM, SamplingParams": Row("vllm", after=(EXPORT,)),
    f"{VLLM_PYTHON} examples/04_vllm_async.py served/policy": Row("vllm", after=(EXPORT,)),
    SERVE: Row("test", why="tests/with_vllm/test_serving.py: api_server"),
    f"{VLLM_PYTHON} {CLIENT}": Row("test", why="tests/with_vllm/test_serving.py: 05_vllm_serve.py"),
    PUSH: Row("test", why="tests/with_vllm/test_serving.py: curl"),
    # docs/verl.md
    "pip install '.[verl]'": Row("nowhere", why=INSTALL),
    VERL_QUICKSTART: Row("verl"),
    VERL_ARGS: Row("nowhere", why="dots stand for the user's command"),
    'derived=$(python -m arrol.integrations.verl "${args[@]}")': Row("verl"),
    'python -m verl.trainer.main_ppo "${args[@]}" $derived': Row("test", why="tests/verl_host.py: main_ppo"),
    f"docs/verl.md: {MANAGER}": Row("verl"),
    "docs/verl.md: driver                                  agent-loop workers                         servers (vLLM,"
    " SGLang, ...)": Row("nowhere", why=DRAWING),
    "bash examples/08_verl_multinode.sh head 10.0.0.1": Row("test", why=NODES),
    "bash examples/08_verl_multinode.sh join 10.0.0.1 10.0.0.2": Row("test", why=NODES),
    'bash examples/08_verl_multinode.sh train 10.0.0.1 trainer.nnodes=2 "${args[@]}"': Row("test", why=NODES),
}
