"""Wrong inputs, as a new user types them: one table of command, files and the whole message.

Every row ends with exit code 2, one line on stderr, nothing on stdout, and no file written or changed. The commands run
in a folder with ``FILES``, a model ``m``, a run ``runs/done`` with a checkpoint and a warm start ``runs/warm``.
"""

import json
import shlex
import shutil

import pytest

from arrol.cli.main import build_parser, main
from arrol.cli.words import commands_of
from arrol.records.schema import RunRecord, StepRecord
from arrol.records.state import write_state
from arrol.records.store import RecordWriter
from integration import tiny

RUN = """name = "mine"
model = "m"
device = "cpu"
[task]
name = "arithmetic"
[sampling]
max_completion_tokens = 20
[pruning]
rule = "uniform"
probe_tokens = [8]
[training]
group_size = 8
"""
ROW = '{"prompt": "1+1?", "completion": "#### 2", "answer": "2"}\n'
FILES = {
    "run.toml": RUN,
    "compare.toml": '[run]\nmodel = "m"\ntask.name = "arithmetic"\n[[arms]]\nname = "a"\n[[arms]]\nname = "b"\n',
    "sft.toml": 'model = "m"\nsteps = 3\n[task]\nname = "arithmetic"\n',
    "s.jsonl": ROW,
    "torn.jsonl": ROW + '{"prompt": "1+\n' + ROW,
    "words.jsonl": '{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer": "four"}\n' * 20,
    "long.jsonl": "".join(json.dumps({"question": f"{n}+1", "answer": "1"}) + "\n" for n in range(60))
    + json.dumps({"question": "1" * 70, "answer": "1"}),
    "gold.jsonl": '{"prompt": "2+2?", "completion": "four", "answer": "four"}\n',
    "data/notes.txt": "",
    "data/empty/notes.txt": "",
}
"""Name -> content of what lies in the folder of every row."""

ROWS = [
    # command lines
    (
        "trainn run.toml",
        {},
        "COMMAND = 'trainn': unknown; write arrol train",
    ),
    (
        "fly",
        {},
        "COMMAND = 'fly': unknown; choose {commands}",
    ),
    (
        "train",
        {},
        "CONFIG: missing; write arrol train CONFIG",
    ),
    (
        "train run.toml steps=5",
        {},
        "'steps=5': not understood; arrol train takes CONFIG; a field of the config is --section.field VALUE",
    ),
    (
        "train run.toml --resume yes",
        {},
        "'yes': not understood; arrol train takes CONFIG; a field of the config is --section.field VALUE",
    ),
    (
        "train run.toml --resume=1",
        {},
        "--resume = '1': takes no value; write --resume alone",
    ),
    (
        "train run.toml --resum",
        {},
        "--resum: no option of arrol train; write --resume",
    ),
    (
        "train run.toml --name",
        {},
        "flag = '--name': has no value; write --name TEXT",
    ),
    (
        "train run.toml --training.bf16",
        {},
        "flag = '--training.bf16': has no value; write --training.bf16 true or false",
    ),
    (
        "train run.toml --name a --name b",
        {},
        "flag = '--name': name was given before; give it once",
    ),
    (
        "train run.toml --training 5 --training.steps 5",
        {},
        "flag = '--training.steps': training was given a value before; give either the section or its fields",
    ),
    (
        "train run.toml -- training.steps 5",
        {},
        "'5': not understood; arrol train takes CONFIG; a field of the config is --section.field VALUE",
    ),
    (
        "sft sft.toml --plots x",
        {},
        "--plots: no option of arrol sft; arrol advise has it; leave it out",
    ),
    (
        "train run.toml --samples s.jsonl",
        {},
        "--samples: no option of arrol train; arrol eval and arrol vote have it; leave it out",
    ),
    (
        "report runs/done --training.steps 5",
        {},
        "--training.steps: no option of arrol report; it takes --help, --json, --out",
    ),
    (
        "report runs/done --output x",
        {},
        "--output: no option of arrol report; write --out",
    ),
    (
        "vote",
        {},
        "--samples: missing; write arrol vote --samples FILE",
    ),
    (
        "vote s.jsonl",
        {},
        "--samples: missing; write arrol vote --samples FILE",
    ),
    (
        "vote --samples s.jsonl --window x",
        {},
        "--window = 'x': not a whole number; write --window N",
    ),
    (
        "vote --samples s.jsonl --group-by row",
        {},
        "--group-by = 'row': unknown; choose key or prompt",
    ),
    (
        "export runs/done",
        {},
        "--to: missing; write arrol export --to DIR",
    ),
    (
        "export runs/done --to x --head-size 4.5",
        {},
        "--head-size = '4.5': not a whole number; write --head-size N",
    ),
    (
        "info --training.steps 7",
        {},
        "flag = '--training.steps': changes a config, and none is given; write arrol info CONFIG --training.steps 7",
    ),
    (
        "info run.toml --steps 7",
        {},
        "steps = 7: unknown key; the nearest known one is 'training.steps'",
    ),
    # configs of another kind, folders
    (
        "train compare.toml",
        {},
        "config = 'compare.toml': is the config of a comparison, not of a run; arrol compare compare.toml takes it",
    ),
    (
        "train sft.toml",
        {},
        "config = 'sft.toml': is the config of a warm start, not of a run; arrol sft sft.toml takes it",
    ),
    (
        "compare run.toml",
        {},
        "config = 'run.toml': is the config of a run, not of a comparison; arrol train run.toml takes it",
    ),
    (
        "sft run.toml",
        {},
        "config = 'run.toml': is the config of a run, not of a warm start; arrol train run.toml takes it",
    ),
    (
        "sft compare.toml",
        {},
        (
            "config = 'compare.toml': is the config of a comparison, not of a warm start; arrol compare "
            "compare.toml takes it"
        ),
    ),
    (
        "eval compare.toml",
        {},
        "config = 'compare.toml': is the config of a comparison, not of a run; arrol compare compare.toml takes it",
    ),
    (
        "lab sft.toml",
        {},
        "config = 'sft.toml': is the config of a warm start, not of a run; arrol sft sft.toml takes it",
    ),
    (
        "train runs/done",
        {},
        "config = 'runs/done': is the folder of a run; give its TOML file, with --resume to go on",
    ),
    (
        "train m",
        {},
        "config = 'm': is the folder of a model; give a TOML file that names it as model",
    ),
    (
        "train data",
        {},
        "config = 'data': is a folder; give a TOML file, for example one in configs/",
    ),
    (
        "train nothing.toml",
        {},
        "config = 'nothing.toml': no such file; give the path of a TOML file, such as sft.toml",
    ),
    (
        "train rumm.toml",
        {},
        "config = 'rumm.toml': no such file; give the path of a TOML file, such as run.toml",
    ),
    (
        "train x.yaml",
        {"x.yaml": "learning_rate: 1e-4\n"},
        (
            "config = 'x.yaml': not valid TOML (Expected '=' after a key in a key/value pair (at line 1, "
            "column 14)); a YAML file of TRL is for arrol grpo --config x.yaml"
        ),
    ),
    (
        "train 5",
        {},
        "config = '5': no such file; give the path of a TOML file, such as compare.toml",
    ),
    (
        "compare runs/done",
        {},
        "config = 'runs/done': is the folder of a run; give its TOML file, with --resume to go on",
    ),
    (
        "info m",
        {},
        "config = 'm': is the folder of a model; give a TOML file that names it as model",
    ),
    # unknown keys
    (
        "train run.toml --steps 5",
        {},
        "steps = 5: unknown key; the nearest known one is 'training.steps'",
    ),
    (
        "train run.toml --learning_rate 1e-3",
        {},
        "learning_rate = 0.001: unknown key; the nearest known one is 'optimizer.learning_rate'",
    ),
    (
        "train run.toml --lr 1e-3",
        {},
        "lr = 0.001: unknown key; the nearest known one is 'optimizer.learning_rate'",
    ),
    (
        "train run.toml --num_generations 8",
        {},
        "num_generations = 8: unknown key; the nearest known one is 'training.group_size'",
    ),
    (
        "train run.toml --max_new_tokens 8",
        {},
        "max_new_tokens = 8: unknown key; the nearest known one is 'sampling.max_completion_tokens'",
    ),
    (
        "train run.toml --beta 0.1",
        {},
        "beta = 0.1: unknown key; the nearest known one is 'algorithm.kl_coef'",
    ),
    (
        "train run.toml --keep_ratio 0.5",
        {},
        "keep_ratio = 0.5: unknown key; the nearest known one is 'pruning.keep_ratio'",
    ),
    (
        "train run.toml --training.learning_rate 1e-3",
        {},
        "training.learning_rate = 0.001: unknown key; the nearest known one is 'optimizer.learning_rate'",
    ),
    (
        "train run.toml --pruning.keep_ration 0.5",
        {},
        "pruning.keep_ration = 0.5: unknown key; the nearest known one is 'pruning.keep_ratio'",
    ),
    (
        "train run.toml --task.source x.jsonl",
        {},
        "task.source = 'x.jsonl': unknown key; only task.name = 'dataset' has it",
    ),
    (
        "train run.toml --task.rewards f",
        {},
        "task.rewards = 'f': unknown key; the nearest known one is 'task.reward'",
    ),
    (
        "train run.toml --lora.r 8",
        {},
        (
            "lora.r = 8: unknown key; arrol train changes every weight; for LoRA and quantised models use "
            "arrol grpo with --use_peft"
        ),
    ),
    (
        "train run.toml --weight_decay 0.1",
        {},
        (
            "weight_decay = 0.1: unknown key; the nearest known ones are 'quality.weight_decay', "
            "'optimizer.weight_decay'"
        ),
    ),
    (
        "train run.toml --optimiser.learning_rate 1e-3",
        {},
        "optimiser.learning_rate = 0.001: unknown key; the nearest known one is 'optimizer.learning_rate'",
    ),
    (
        "train run.toml --quality.learningrate 1e-3",
        {},
        "quality.learningrate = 0.001: unknown key; the nearest known one is 'quality.learning_rate'",
    ),
    (
        "train run.toml --zzz 1",
        {},
        (
            "zzz = 1: unknown key; the known ones are name, model, out_dir, seed, device, num_threads, "
            "report_to, task, sampling, engine, pruning, quality, allocation, algorithm, training, optimizer, "
            "evaluation"
        ),
    ),
    (
        "train run.toml --sampling.zzz 1",
        {},
        (
            "sampling.zzz = 1: unknown key; the known ones of sampling are max_completion_tokens, "
            "temperature, top_p, top_k, stop"
        ),
    ),
    (
        "train run.toml --task arithmetik",
        {},
        (
            "task.name = 'arithmetik': unknown; the nearest of 'arithmetic', 'countdown', 'search', 'dataset' "
            "is 'arithmetic'"
        ),
    ),
    (
        "train run.toml --pruning nyman",
        {},
        (
            "pruning.rule = 'nyman': unknown; the nearest of 'never', 'uniform', 'oracle', 'confidence', "
            "'extremes', 'paper', 'balanced', 'neyman', 'auto' is 'neyman'"
        ),
    ),
    (
        "train run.toml --engine vlm",
        {},
        "engine.name = 'vlm': unknown; the nearest of 'embedded', 'vllm' is 'vllm'",
    ),
    (
        "compare compare.toml --training.steps 5",
        {},
        "training.steps = 5: unknown key; the nearest known one is 'run.training.steps'",
    ),
    (
        "compare compare.toml --steps 5",
        {},
        "steps = 5: unknown key; the nearest known one is 'run.training.steps'",
    ),
    (
        "compare compare.toml --seed 1",
        {},
        "seed = 1: unknown key; the nearest known one is 'seeds'",
    ),
    (
        "compare compare.toml --run.steps 5",
        {},
        "arm 'a': steps = 5: unknown key; the nearest known one is 'training.steps'",
    ),
    (
        "sft sft.toml --training.steps 5",
        {},
        "training.steps = 5: unknown key; the nearest known one is 'steps'",
    ),
    (
        "sft sft.toml --lr 1",
        {},
        "lr = 1: unknown key; the nearest known one is 'optimizer.learning_rate'",
    ),
    # values of the wrong kind
    (
        "train run.toml --training.steps true",
        {},
        "training.steps = true: must be a number, not true or false; expected: Training steps, 1 to 1000000000.",
    ),
    (
        "train true.toml",
        {"true.toml": RUN + "steps = true\n"},
        "training.steps = true: must be a number, not true or false; expected: Training steps, 1 to 1000000000.",
    ),
    (
        "train run.toml --training.steps 2.5",
        {},
        (
            "training.steps = 2.5: input should be a valid integer, got a number with a fractional part; "
            "expected: Training steps, 1 to 1000000000."
        ),
    ),
    (
        "train run.toml --training.steps five",
        {},
        (
            "training.steps = 'five': input should be a valid integer, unable to parse string as an integer; "
            "expected: Training steps, 1 to 1000000000."
        ),
    ),
    (
        "train run.toml --pruning.keep_ratio true",
        {},
        (
            "pruning.keep_ratio = true: must be a number, not true or false; expected: Share of the "
            "candidates that survive, in (0, 1]."
        ),
    ),
    (
        "train run.toml --algorithm.leave_one_out maybe",
        {},
        (
            "algorithm.leave_one_out = 'maybe': input should be a valid boolean, unable to interpret input; "
            "expected: Keep a rollout's own reward out of its baseline; needed for an exactly unbiased "
            "gradient."
        ),
    ),
    (
        "train run.toml --report_to tensorbord",
        {},
        (
            "report_to = 'tensorbord': input should be 'tensorboard', 'wandb' or 'trackio'; expected: Metric "
            "services, in addition to the records: tensorboard, wandb, trackio."
        ),
    ),
    (
        "train run.toml --report_to tensorboard,wanb",
        {},
        (
            "report_to = 'wanb': input should be 'tensorboard', 'wandb' or 'trackio'; expected: Metric "
            "services, in addition to the records: tensorboard, wandb, trackio."
        ),
    ),
    (
        "train run.toml --pruning.probe_tokens 3,true",
        {},
        (
            "pruning.probe_tokens = [3, True]: must be a number, not true or false; expected: Completion "
            "lengths at which rollouts are judged, ascending, each at least 1."
        ),
    ),
    (
        "train run.toml --sampling.temperature nan",
        {},
        (
            "sampling.temperature = nan: input should be a finite number; expected: 0 or more; 0 takes the "
            "most likely token."
        ),
    ),
    (
        "train run.toml --task.max_ops 1 --task.min_ops 2",
        {},
        "task.max_ops = 1: at least min_ops = 2",
    ),
    (
        "train run.toml --device gpu",
        {},
        "device = 'gpu': not a device; use auto, cpu, cuda or cuda:N",
    ),
    (
        "compare compare.toml --seeds 0,0",
        {},
        "seeds = [0, 0]: name each seed once",
    ),
    (
        "compare compare.toml --seeds true",
        {},
        "seeds = [True]: must be a number, not true or false; expected: One run per arm and seed.",
    ),
    (
        "sft sft.toml --mixture {exact=true}",
        {},
        (
            "mixture = {'exact': True}: must be a number, not true or false; expected: Solver -> share of the "
            "demonstrations; empty takes the task's default."
        ),
    ),
    # numbers that kill or hang
    (
        "train run.toml --num_threads 100000",
        {},
        (
            "num_threads = 100000: input should be less than or equal to 1024; expected: CPU threads of "
            "torch, 1 to 1024; part of what makes a run repeatable."
        ),
    ),
    (
        "train run.toml --training.group_size 1e8",
        {},
        (
            "training.group_size = 100000000.0: input should be less than or equal to 65536; expected: "
            "Rollouts started per prompt, 1 to 65536; at most 1048576 rollouts a step."
        ),
    ),
    (
        "train run.toml --training.group_size 100000000000000000000",
        {},
        (
            "training.group_size = 100000000000000000000: needs more than 63 bits; expected: Rollouts started "
            "per prompt, 1 to 65536; at most 1048576 rollouts a step."
        ),
    ),
    (
        "train run.toml --training.group_size 2000 --training.prompts_per_step 2000",
        {},
        (
            "training.group_size = 2000: times prompts_per_step = 2000 is more than 1048576 rollouts a step; "
            "lower one of them"
        ),
    ),
    (
        "train run.toml --seed 18446744073709551616",
        {},
        (
            "seed = 18446744073709551616: needs more than 63 bits; expected: A number from 0 to 2**62; one "
            "seed reproduces the run on a CPU, bit for bit."
        ),
    ),
    (
        "train run.toml --seed 1e30",
        {},
        (
            "seed = 1e+30: needs more than 63 bits; expected: A number from 0 to 2**62; one seed reproduces "
            "the run on a CPU, bit for bit."
        ),
    ),
    (
        "train run.toml --seed -1",
        {},
        (
            "seed = -1: input should be greater than or equal to 0; expected: A number from 0 to 2**62; one "
            "seed reproduces the run on a CPU, bit for bit."
        ),
    ),
    (
        "train run.toml --training.steps 1e18",
        {},
        (
            "training.steps = 1e+18: input should be less than or equal to 1000000000; expected: Training "
            "steps, 1 to 1000000000."
        ),
    ),
    (
        "train run.toml --training.epochs 1e10",
        {},
        (
            "training.epochs = 10000000000.0: input should be less than or equal to 1000; expected: Passes "
            "over the batch, 1 to 1000."
        ),
    ),
    (
        "train run.toml --training.minibatches 1e11",
        {},
        (
            "training.minibatches = 100000000000.0: input should be less than or equal to 65536; expected: "
            "Optimizer steps per pass over the batch, 1 to 65536."
        ),
    ),
    (
        "train run.toml --evaluation.num_prompts 1e8",
        {},
        (
            "evaluation.num_prompts = 100000000.0: input should be less than or equal to 1000000; expected: "
            "Held-out prompts, 1 to 1000000."
        ),
    ),
    (
        "train run.toml --evaluation.num_prompts 1e6 --evaluation.samples_per_prompt 60000",
        {},
        (
            "evaluation.samples_per_prompt = 60000: times num_prompts = 1000000 is more than 16777216 "
            "completions; lower one of them"
        ),
    ),
    (
        "train run.toml --task.num_problems 1e13",
        {},
        (
            "task.num_problems = 10000000000000.0: input should be less than or equal to 10000000; expected: "
            "Training problems, asked again in every epoch in a new order; at most 10000000; 0 makes new ones "
            "for ever."
        ),
    ),
    (
        "train run.toml --quality.hidden_size 1e9",
        {},
        (
            "quality.hidden_size = 1000000000.0: input should be less than or equal to 65536; expected: Width "
            "of the head's hidden layer, 1 to 65536 (the method notes give 128 to 512)."
        ),
    ),
    (
        "train run.toml --quality.num_bins 1e11",
        {},
        (
            "quality.num_bins = 100000000000.0: input should be less than or equal to 1000000; expected: Bins "
            "over the head's sigmoid, 1 to 1000000."
        ),
    ),
    (
        "train run.toml --quality.buffer_size 1e11",
        {},
        (
            "quality.buffer_size = 100000000000.0: input should be less than or equal to 10000000; expected: "
            "Finished rollouts remembered, oldest forgotten first, 1 to 10000000."
        ),
    ),
    (
        "train run.toml --engine.max_rows 1e11",
        {},
        (
            "engine.max_rows = 100000000000.0: input should be less than or equal to 1048576; expected: "
            "Rollouts that decode at once, 1 to 1048576; fewer where memory allows fewer, the rest wait in a "
            "queue."
        ),
    ),
    (
        "train run.toml --sampling.max_completion_tokens 1e9",
        {},
        (
            "sampling.max_completion_tokens = 1000000000.0: input should be less than or equal to 16777216; "
            "expected: Length limit of a completion, 1 to 16777216."
        ),
    ),
    (
        "train run.toml --allocation pilot_commit --allocation.commit_size 1e9",
        {},
        (
            "allocation.commit_size = 1000000000.0: input should be less than or equal to 65536; expected: "
            "Rollouts added to a prompt that is committed to, 1 to 65536."
        ),
    ),
    (
        "sft sft.toml --shape.num_layers 1e6",
        {},
        "shape.num_layers = 1000000.0: input should be less than or equal to 1024; expected: Layers, 1 to 1024.",
    ),
    (
        "sft sft.toml --shape.hidden_size 65536 --shape.num_layers 100 --shape.num_heads 64 --shape.num_kv_heads 64",
        {},
        (
            "shape.hidden_size = 65536: with num_layers = 100 and intermediate_size = 384 the model has "
            "1.7e+12 parameters; stay below 1e+10"
        ),
    ),
    (
        "sft sft.toml --batch_size 1e9",
        {},
        (
            "batch_size = 1000000000.0: input should be less than or equal to 1048576; expected: "
            "Demonstrations per step, 1 to 1048576."
        ),
    ),
    (
        "lab run.toml --workers 100000",
        {},
        "--workers = 100000: give at least 1 and at most 256",
    ),
    (
        "lab run.toml --rollouts 1e9",
        {},
        "--rollouts = '1e9': not a whole number; write --rollouts N",
    ),
    (
        "lab run.toml --rollouts 1000000000",
        {},
        "--rollouts = 1000000000: give at least 2 and at most 65536",
    ),
    (
        "advise s.jsonl --visits 0",
        {},
        "--visits = 0: give at least 1",
    ),
    # what would teach nothing
    (
        "train run.toml --optimizer.learning_rate 1.0",
        {},
        (
            "optimizer.learning_rate = 1.0: input should be less than or equal to 0.1; expected: Peak rate, "
            "in (0, 0.1]; AdamW moves each weight by about as much per step."
        ),
    ),
    (
        "train run.toml --optimizer.learning_rate 0",
        {},
        (
            "optimizer.learning_rate = 0: input should be greater than 0; expected: Peak rate, in (0, 0.1]; "
            "AdamW moves each weight by about as much per step."
        ),
    ),
    (
        "train run.toml --quality.learning_rate 5",
        {},
        (
            "quality.learning_rate = 5: input should be less than or equal to 0.1; expected: Of the head's "
            "own AdamW, in (0, 0.1]."
        ),
    ),
    (
        "train run.toml --sampling.temperature 0",
        {},
        (
            "sampling.temperature = 0: the rollouts of a prompt would all be the same, so nothing is learnt; "
            "set it above 0"
        ),
    ),
    (
        "train run.toml --training.group_size 1 --pruning never",
        {},
        (
            "training.group_size = 1: a rollout is compared with the others of its prompt, so nothing is "
            "learnt; give 2 or more"
        ),
    ),
    (
        "compare compare.toml --run.sampling.temperature 0",
        {},
        (
            "sampling.temperature = 0: the rollouts of a prompt would all be the same, so nothing is learnt; "
            "set it above 0"
        ),
    ),
    # runs and their folders
    (
        "train run.toml --name done",
        {},
        "name = 'done': runs/done holds a run already; go on with --resume or choose another --name",
    ),
    (
        "train run.toml --name dome --resume",
        {},
        (
            "--resume: runs/dome holds no run to go on with; runs has done; write --name done, or leave "
            "--resume out to start it"
        ),
    ),
    (
        "train run.toml --name zzz --resume",
        {},
        "--resume: runs/zzz holds no run to go on with; runs has done; leave --resume out to start it",
    ),
    (
        "compare compare.toml --resume",
        {},
        (
            "--resume: runs/compare/a-seed0 holds no run to go on with; runs/compare has no run; leave "
            "--resume out to start it"
        ),
    ),
    (
        "train run.toml --out_dir s.jsonl",
        {},
        "out_dir = 's.jsonl/mine': {world}/s.jsonl is a file; choose another folder",
    ),
    (
        "train run.toml --out_dir s.jsonl/x",
        {},
        "out_dir = 's.jsonl/x/mine': {world}/s.jsonl is a file; choose another folder",
    ),
    (
        "sft sft.toml --name warm",
        {},
        "name = 'warm': runs/warm exists; choose another --name or remove it",
    ),
    (
        "report nothing",
        {},
        "run = 'nothing': no such folder; give a folder that arrol train or compare wrote",
    ),
    (
        "report s.jsonl",
        {},
        "run = 's.jsonl': is a file; give a folder that arrol train or compare wrote",
    ),
    (
        "report data",
        {},
        "run = 'data': holds no records.jsonl; give a folder that arrol train or compare wrote",
    ),
    (
        "export nothing --to x",
        {},
        "run = 'nothing': no such folder; give the folder of a run that arrol train made",
    ),
    (
        "export s.jsonl --to x",
        {},
        "run = 's.jsonl': is a file; give the folder of a run that arrol train made",
    ),
    (
        "export runs --to x",
        {},
        "run = 'runs': holds runs; give the folder of one of them",
    ),
    (
        "export runs/done --to m",
        {},
        "--to = 'm': exists and is not empty; name a new folder",
    ),
    (
        "export runs/done --to s.jsonl",
        {},
        "--to = 's.jsonl': exists and is not empty; name a new folder",
    ),
    (
        "export runs/done --to x --head-size 0",
        {},
        "head_size = 0: the model's heads have 8; give an even number from 8",
    ),
    (
        "export runs/done --to x --head-size 7",
        {},
        "head_size = 7: the model's heads have 8; give an even number from 8",
    ),
    (
        "eval runs/done --model m",
        {},
        (
            "--model = 'm': the folder of a run has its own policy and name; leave it out, or give a config "
            "or a model in place of runs/done"
        ),
    ),
    (
        "eval runs/done --name x",
        {},
        (
            "--name = 'x': the folder of a run has its own policy and name; leave it out, or give a config or "
            "a model in place of runs/done"
        ),
    ),
    (
        "eval runs/done --estimator s.jsonl",
        {},
        "estimator = 's.jsonl': not an estimator (ValueError); give a file that arrol export wrote",
    ),
    (
        "eval runs",
        {},
        "run = 'runs': holds runs; give the folder of one of them",
    ),
    (
        "eval nothing",
        {},
        (
            "source = 'nothing': no such file or folder; give the TOML file of a run, the folder of a run or "
            "of a model, or owner/name of a model on the hub"
        ),
    ),
    (
        "eval nothing/else",
        {},
        "task: missing; a model has no config; write arrol eval nothing/else --task.source FILE, or --task NAME",
    ),
    (
        "eval data",
        {},
        "run = 'data': holds no checkpoint; give the folder of a run that arrol train made",
    ),
    (
        "lab nothing.toml",
        {},
        "config = 'nothing.toml': no such file; give the path of a TOML file, such as sft.toml",
    ),
    (
        "lab runs/done --model m",
        {},
        (
            "--model = 'm': the folder of a run has its own policy and name; leave it out, or give a config "
            "or a model in place of runs/done"
        ),
    ),
    (
        "lab runs/done --report_to wandb",
        {},
        "--report_to: arrol lab does not use it; leave it out",
    ),
    # eval, vote and what they would ignore
    (
        "eval",
        {},
        "eval: nothing to score; give a CONFIG, the folder of a run or a model, or --samples FILE",
    ),
    (
        "eval run.toml --training.steps 5",
        {},
        "--training: arrol eval does not use it; leave it out",
    ),
    (
        "eval run.toml --pruning.keep_ratio 0.3",
        {},
        "--pruning: arrol eval does not use it; leave it out",
    ),
    (
        "eval run.toml --optimizer.learning_rate 1e-3",
        {},
        "--optimizer: arrol eval does not use it; leave it out",
    ),
    (
        "eval run.toml --k 0",
        {},
        "--k = '0': not a list of whole numbers from 1; write for example --k 1,4,16",
    ),
    (
        "eval run.toml --k 1,x",
        {},
        "--k = '1,x': not a list of whole numbers from 1; write for example --k 1,4,16",
    ),
    (
        "eval run.toml --k 1,100",
        {},
        "--k = 100: evaluation.samples_per_prompt = 1; sample more or give a smaller k",
    ),
    (
        "eval run.toml --mark ####",
        {},
        "--mark = ['####']: only a samples file needs it; leave it out",
    ),
    (
        "eval run.toml --out s.jsonl",
        {},
        "--out = 's.jsonl': exists; score it with --samples, or give another --out",
    ),
    (
        "eval run.toml --out s.jsonl/x.jsonl",
        {},
        "--out = 's.jsonl': {world}/s.jsonl is a file; choose another folder",
    ),
    (
        "eval run.toml --estimator nothing.safetensors",
        {},
        "estimator = 'nothing.safetensors': no such file; make one with arrol export",
    ),
    (
        "eval m",
        {},
        "task: missing; a model has no config; write arrol eval m --task.source FILE, or --task NAME",
    ),
    (
        "eval m --task.source nothing.jsonl",
        {},
        (
            "source: 'nothing.jsonl' is no file or folder; give a path, owner/name on the hub, or one of "
            "gsm8k, svamp, math500, minerva_math, olympiadbench, amc23, aime24, aime25, dapo-math-17k"
        ),
    ),
    (
        "eval m --task.max_ops 3",
        {},
        "task.source: missing; expected: Path of a file or folder, a hub name, or a preset such as gsm8k.",
    ),
    (
        "eval --samples s.jsonl 5",
        {},
        "'5': a samples file is scored as it is, without CONFIG or RUN; leave it out",
    ),
    (
        "eval --samples s.jsonl --confidences",
        {},
        "--confidences: needs a model to sample, and --samples are scored as they are; leave it out",
    ),
    (
        "eval --samples s.jsonl --training.steps 5",
        {},
        "flag = '--training.steps': a samples file has no config; leave it out",
    ),
    (
        "eval --samples s.jsonl --k 100",
        {},
        "--k = 100: problem '6a9e606bb00c9d3a' has 1 samples; sample more or give a smaller k",
    ),
    (
        "eval --samples s.jsonl --out s.jsonl",
        {},
        "--out = 's.jsonl': exists; give the name of a new file for the verdicts",
    ),
    (
        "eval --samples nothing.jsonl",
        {},
        "samples: 'nothing.jsonl' cannot be read (No such file or directory); give a file, or a folder of files",
    ),
    (
        "eval --samples data/empty",
        {},
        "samples: 'data/empty' holds no .jsonl, .json, .csv, .tsv, .parquet file; give a file of samples",
    ),
    (
        "eval --samples torn.jsonl",
        {},
        (
            "samples: 'torn.jsonl' line 2 is not JSON (Invalid control character at: line 1 column 15 (char "
            "14)); mend or remove that line"
        ),
    ),
    (
        "eval --samples s.jsonl --column answer",
        {},
        (
            "--column = 'answer': write FIELD=NAME, each field once; the fields are completion, prompt, "
            "answer, key, extracted, reward, score, quality, num_tokens, finish_reason, logprobs, "
            "confidences, level"
        ),
    ),
    (
        "eval --samples s.jsonl --column answer=solution",
        {},
        (
            "samples: 's.jsonl' line 1: --column answer=solution: no such column (columns: prompt, "
            "completion, answer); name one of them"
        ),
    ),
    (
        "vote --samples s.jsonl --rules majority,rnak",
        {},
        (
            "rules: 'rnak' is no vote; choose oracle or best_of_n, confidence, log_odds, majority, quality, "
            "quality_confidence, rank, rank_floor, score_prob, softmax, top_percent; a rule that reads the "
            "confidence may be followed by :{average, bottom, lowest, tail} and then :{top10, top90}"
        ),
    ),
    (
        "vote --samples s.jsonl --rules quality",
        {},
        (
            "--rules: 'quality' reads quality, which sample 1 of problem '6a9e606bb00c9d3a' lacks; leave the "
            "vote out, or add the column"
        ),
    ),
    (
        "vote --samples s.jsonl --k x",
        {},
        "--k = 'x': not a list of whole numbers from 1; write for example --k 1,4,16",
    ),
    (
        "vote --samples s.jsonl --window 0",
        {},
        "--window = 0: give a number of tokens from 1",
    ),
    (
        "vote --samples gold.jsonl --verifier integer",
        {},
        (
            "--verifier = 'integer': the gold answer 'four' of problem 'e3ca948e7ab0e337' is not an integer; "
            "choose symbolic"
        ),
    ),
    # data and models
    (
        "train run.toml --task dataset --task.source words.jsonl --task.verifier integer",
        {},
        "verifier: gold answer 'four' is not an integer; choose verifier 'symbolic'",
    ),
    (
        "train run.toml --task dataset --task.source nothing.jsonl",
        {},
        (
            "source: 'nothing.jsonl' is no file or folder; give a path, owner/name on the hub, or one of "
            "gsm8k, svamp, math500, minerva_math, olympiadbench, amc23, aime24, aime25, dapo-math-17k"
        ),
    ),
    (
        "train run.toml --task dataset --task.source words.jsonl --task.prompt_column ask",
        {},
        "prompt_column: 'ask' is not in 'words.jsonl' line 1; available: question, answer",
    ),
    (
        "train run.toml --task dataset --task.source torn.jsonl",
        {},
        (
            "source: 'torn.jsonl' line 2 is not JSON (Invalid control character at: line 1 column 15 (char "
            "14)); mend or remove that line"
        ),
    ),
    (
        "train run.toml --model nothing/here/there",
        {},
        (
            "model = 'nothing/here/there': no such folder; give a folder with config.json or a hub name such "
            "as Qwen/Qwen3-1.7B-Base"
        ),
    ),
    (
        "train run.toml --model ./nothing",
        {},
        (
            "model = './nothing': no such folder; give a folder with config.json or a hub name such as "
            "Qwen/Qwen3-1.7B-Base"
        ),
    ),
    (
        "train run.toml --model owner/nothing",
        {},
        (
            "model = 'owner/nothing': HF_HUB_OFFLINE is set, and no copy is cached; unset it, or give a "
            "folder with config.json"
        ),
    ),
    (
        "train run.toml --model data",
        {},
        "model = 'data': the folder has no config.json; give one written by save_pretrained",
    ),
    (
        "train run.toml --model broken",
        {"broken/config.json": "{\n"},
        (
            "model = 'broken': broken/config.json is not JSON (line 2: Expecting property name enclosed in "
            "double quotes); copy or save the model again"
        ),
    ),
    (
        "train run.toml --model pointer",
        {"pointer/model.safetensors": "version https://git-lfs.github.com/spec/v1\n"},
        (
            "model = 'pointer': pointer/model.safetensors is a pointer of Git LFS, not the file itself; run "
            "git lfs pull there"
        ),
    ),
    (
        "train run.toml --model torn",
        {"torn/model.safetensors": "{"},
        (
            "model = 'torn': torn/model.safetensors is damaged (Error while deserializing header: header too "
            "small); copy or save the model again"
        ),
    ),
    (
        "train run.toml --model halftok",
        {"halftok/tokenizer.json": "{"},
        (
            "model = 'halftok': halftok/tokenizer.json is not JSON (line 1: Expecting property name enclosed "
            "in double quotes); copy or save the model again"
        ),
    ),
    (
        "train run.toml --task dataset --task.source long.jsonl",
        {},
        (
            "prompt: '111111111111111111111111111111111111111111111111111111111111' has 70 tokens, and the "
            "model has 64 positions (max_position_embeddings); leave it out, or take a model with more"
        ),
    ),
    (
        "train run.toml --sampling.max_completion_tokens 5000",
        {},
        (
            "sampling.max_completion_tokens = 5000: with a prompt of 15 tokens it exceeds the 64 positions of "
            "the model (max_position_embeddings); lower it to 49"
        ),
    ),
    (
        "eval run.toml --sampling.max_completion_tokens 5000",
        {},
        (
            "sampling.max_completion_tokens = 5000: with a prompt of 15 tokens it exceeds the 64 positions of "
            "the model (max_position_embeddings); lower it to 49"
        ),
    ),
    (
        "sft sft.toml --max_completion_tokens 5000",
        {},
        (
            "max_completion_tokens = 5000: with a prompt of 15 tokens it exceeds the 64 positions of the "
            "model (max_position_embeddings); lower it to 49"
        ),
    ),
    (
        "sft sft.toml --demonstrations nothing.jsonl",
        {},
        "demonstrations = 'nothing.jsonl': no such file; give a file with the columns prompt and solution",
    ),
    (
        "advise nothing.jsonl",
        {},
        "samples: 'nothing.jsonl' cannot be read (No such file or directory); give a file, or a folder of files",
    ),
    (
        "advise run.toml",
        {},
        "source = 'run.toml': runs/mine/pool.safetensors does not exist; collect it with arrol lab run.toml",
    ),
]
"""Command, files of its own, and the whole message after ``arrol: ``: {world} is the folder, {commands} all names."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder in which every command runs."""
    folder = tmp_path_factory.mktemp("world")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    tiny.save_model(folder / "m", alphabet="0123456789+-*=,:;#")
    config = {"name": "done", "model": "m", "task": {"name": "arithmetic"}}
    facts = {"run_id": "x", "command": "arrol", "commit": "0", "dirty": False, "versions": {}, "device": "a CPU"}
    with RecordWriter(folder / "runs" / "done" / "records.jsonl") as records:
        records.write(RunRecord(name="done", arm="done", seed=0, config=config, started_at="2026-01-01", **facts))
        records.write(StepRecord(step=1, metrics={}))
    checkpoint = folder / "runs" / "done" / "checkpoints" / "step-000001"
    shutil.copytree(folder / "m", checkpoint / "policy")
    write_state(checkpoint, "state", {"config": config, "estimator": {"version": 0}})
    (folder / "runs" / "warm" / "model").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("command", "files", "message"), ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_wrong_input_is_one_line_and_nothing_is_written(command, files, message, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    made = [make_file(world, *each) for each in files.items()]
    before = contents(world)
    try:
        assert main(shlex.split(command)) == 2
        out, err = capsys.readouterr()
        commands = ", ".join(commands_of(build_parser()))
        whole = message.replace("{world}", str(world)).replace("{commands}", commands)
        assert (out, err) == ("", f"arrol: {whole}\n")
        assert contents(world) == before
    finally:
        for path in made:
            shutil.rmtree(world / path.relative_to(world).parts[0]) if path.parent != world else path.unlink()


def make_file(world, name, content):
    """A file of one row; in a folder of its own, the model's files lie beside it."""
    path = world / name
    if path.parent != world and not path.parent.exists():
        shutil.copytree(world / "m", path.parent)
    path.write_text(content, "utf-8")
    return path


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_the_table_is_large_and_says_each_thing_once():
    assert len(ROWS) > 150
    assert len({(command, *files) for command, files, _ in ROWS}) == len(ROWS)
