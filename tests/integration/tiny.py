"""A model of two layers and a question it gets right now and then, made on the spot; and processes that run commands.

The prompts are strings of 0 and 1, the answer is their last digit. A random model over the letters ``0``, ``1`` and
blank writes one of the two answers often enough for groups with spread, so nothing has to be trained first.
"""

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

from arrol.configs.sft import ModelShape

ALPHABET = "01 "
PRELOAD = ["arrol.cli.compare", "arrol.cli.sft", "arrol.tasks.dataset", "torch._dynamo", "numpy.random"]
PRELOAD += ["matplotlib.figure", "matplotlib.backends.backend_agg"]
PRELOAD += [f"transformers.models.qwen3.{name}_qwen3" for name in ("configuration", "modeling")]
SHAPE = ModelShape(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, max_positions=64)

CONFIG = """
name = "tiny"
model = {model}
out_dir = {out_dir}
device = "cpu"

[task]
name = "dataset"
source = {source}

[sampling]
max_completion_tokens = 10

[pruning]
rule = "neyman"
keep_ratio = 0.5
probe_tokens = [3, 6]
warmup_steps = 1
min_survivors = 1

[quality]
hidden_size = 8
min_class_records = 2
batch_size = 8

[training]
steps = 8
prompts_per_step = 3
group_size = 6
minibatches = 2
microbatch_tokens = 64
checkpoint_every = 2

[optimizer]
learning_rate = 1e-2
schedule = "cosine"
lr_warmup_steps = 3

[evaluation]
every = 2
num_prompts = 4
samples_per_prompt = 2
"""


def save_model(folder, shape=SHAPE, alphabet=ALPHABET, seed=0):
    """A random model with its tokenizer."""
    from arrol.training.policy import character_tokenizer
    from arrol.training.sft import new_model

    tokenizer = character_tokenizer(alphabet)
    new_model(shape, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_prompts(folder):
    """``train.jsonl`` and ``test.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(7)), ("test", range(8, 16))):
        rows = [{"question": f"{number:04b}", "answer": str(number % 2)} for number in numbers]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def save_config(path, model, source, out_dir, text=CONFIG):
    """The config above, as a file."""
    values = {"model": json.dumps(str(model)), "source": json.dumps(str(source)), "out_dir": json.dumps(str(out_dir))}
    path.write_text(text.format(**values), "utf-8")
    return path


def toml(values, prefix=""):
    """Tables of plain values, dotted."""
    lines = ""
    for key, value in values.items():
        lines += toml(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} = {json.dumps(value)}\n"
    return lines


def finish(argv, log, signal_at=None, number=signal.SIGKILL, memory=None):
    """Run ``arrol ARGV`` in a process of its own, its output in ``log``; returns its exit status, -9 when killed.

    ``signal_at`` (module, attribute, count), or a list of these, makes it send itself the signal at that call, so the
    moment is exact on any machine; with a fourth number at so many calls. A server that has imported everything forks
    the process, so it is at work at once. ``memory``: bytes that it may still allocate.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=([str(word) for word in argv], str(log), signal_at, number, memory))
    process.start()
    process.join(120)
    ended, code = process.exitcode is not None, process.exitcode
    process.kill()
    assert ended, Path(log).read_text()
    return code


def _run(argv, log, signal_at, number, memory):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background begins with it ignored
    for moment in [signal_at] if isinstance(signal_at, tuple) else signal_at or []:
        _signal_at(*moment[:3], *(moment[3:] or (1,)), number)
    if memory is not None:
        limit_memory(memory)
    from arrol.cli.main import main

    sys.argv = ["arrol", *argv]
    sys.exit(main(argv))


def limit_memory(num_bytes):
    """Let this process allocate so many bytes more, as ``ulimit -v`` does."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:")]
    limit = int(line.split()[1]) * 1024 + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _signal_at(module, attribute, count, times, number):
    owner = importlib.import_module(module)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if count <= len(calls) < count + times:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)
