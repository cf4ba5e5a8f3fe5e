"""Nothing that is loaded runs code: no pickle, no evaluation, no code of a model's repository, anywhere in our sources.

An entry of ``EXCEPTIONS`` says why its file may. The tests of the loaders lay canaries: ``test_foreign_code.py``.
"""

import ast
import pickle
import re
from pathlib import Path

import pytest

from arrol.configs.files import read_toml
from arrol.errors import ArrolError
from arrol.evaluation.samples import read_samples
from arrol.lab.pool import Pool
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.records.store import read_records, read_run
from arrol.records.texts import read_texts, step_file
from arrol.tasks.columns import Columns
from arrol.training.checkpoint import load_optimizer, load_state, require_policy
from arrol.training.model_files import require_model_files
from arrol.training.sft import file_demonstrations

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "benchmarks", "examples", "tools")
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "code"}
"""Whose import is told."""
CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.hub.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"),
}
KEYWORDS = {"trust_remote_code": False, "allow_pickle": False, "weights_only": True, "shell": False}
"""Keyword -> the one value that it may have."""
DATA_ONLY = ("GenerationConfig",)
"""Whose ``from_pretrained`` reads JSON and knows no code."""
WEIGHTS = ("AutoModel", "PeftModel")
"""Classes, by their first letters, that read weights."""

OWN_NAME = "the module's name is in our source"
USERS_OWN = "a function that the user names, of the user's own code"
VERL_OPTION = "verl's own option of that name, off unless its user sets it"
TRL_OPTION = "TRL's own option of that name, off unless its user sets it"
EXCEPTIONS = {
    ("src/arrol/verifiers/function_pool.py", "import pickle"): "writes alone: a question to a worker that it started",
    ("src/arrol/verifiers/function_worker.py", "import pickle"): "reads its parent's pipe, which no other can write to",
    ("src/arrol/verifiers/function_worker.py", "pickle.load"): "the same",
    ("src/arrol/training/policy.py", "from_pretrained passed on"): "_loaded adds trust_remote_code=False; see canaries",
    ("src/arrol/training/lora.py", "PeftModel.from_pretrained"): "foreign_code has refused pickles and modules before",
    ("src/arrol/__init__.py", "import_module"): OWN_NAME,
    ("src/arrol/engines/vllm/__init__.py", "import_module"): OWN_NAME,
    ("src/arrol/integrations/trl/__init__.py", "import_module"): OWN_NAME,
    ("src/arrol/integrations/verl/__init__.py", "import_module"): OWN_NAME,
    ("src/arrol/training/trackers.py", "import_module"): "one of three names of services that the config allows",
    ("src/arrol/verifiers/functions.py", "import_module"): USERS_OWN,
    ("src/arrol/cli/python.py", "import_module"): USERS_OWN,
    ("src/arrol/cli/grpo.py", "import_module"): USERS_OWN,
    ("src/arrol/integrations/verl/recording.py", "trust_remote_code"): VERL_OPTION,
    ("src/arrol/integrations/trl/async_worker.py", "trust_remote_code"): TRL_OPTION,
    ("src/arrol/integrations/trl/reward_model.py", "trust_remote_code"): TRL_OPTION,
    ("src/arrol/integrations/trl/reward_model.py", "AutoModelForSequenceClassification.from_pretrained"): TRL_OPTION,
}
"""(file, what) -> why it may."""


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def findings(tree):
    """What in a module may run foreign code, each as an entry of ``EXCEPTIONS`` names it."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"import {node.module}"
        elif isinstance(node, ast.Attribute) and node.attr == "from_pretrained" and id(node) not in called:
            yield "from_pretrained passed on"
        elif isinstance(node, ast.Call):
            yield from of_call(node)


def of_call(node):
    name = ast.unparse(node.func)
    given = {word.arg: word.value for word in node.keywords}
    if name in CALLS or re.fullmatch(r"(pickle|joblib|marshal|dill)\.loads?", name):
        yield name
    for word, allowed in KEYWORDS.items():
        if word in given and not is_constant(given[word], allowed):
            yield word
    if name.endswith("import_module") and not isinstance(node.args[0], ast.Constant):
        yield "import_module"
    owner, _, method = name.rpartition(".")
    if method == "from_pretrained" and owner not in DATA_ONLY:
        if "trust_remote_code" not in given and not owner.startswith("PeftModel"):
            yield "trust_remote_code"
        if owner.startswith(WEIGHTS) and not is_constant(given.get("use_safetensors"), True):
            yield name


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


FOUND = {
    (path.relative_to(ROOT).as_posix(), what)
    for path in sources()
    for what in findings(ast.parse(path.read_text("utf-8")))
}


def test_nothing_of_our_sources_runs_foreign_code():
    assert sorted(FOUND - EXCEPTIONS.keys()) == []


def test_no_exception_is_kept_that_is_not_needed():
    assert sorted(EXCEPTIONS.keys() - FOUND) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import pickle", ["import pickle"]),
        ("from joblib import load", ["import joblib"]),
        ("torch.load(path)", ["torch.load"]),
        ("np.load(path, allow_pickle=True)", ["np.load", "allow_pickle"]),
        ("yaml.load(text)", ["yaml.load"]),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
        ("re.compile(text)", []),
        ("subprocess.run(text, shell=True)", ["shell"]),
        ("importlib.import_module(name)", ["import_module"]),
        ("import_module('arrol')", []),
        ("AutoTokenizer.from_pretrained(name)", ["trust_remote_code"]),
        ("AutoTokenizer.from_pretrained(name, trust_remote_code=flag)", ["trust_remote_code"]),
        ("AutoTokenizer.from_pretrained(name, trust_remote_code=False)", []),
        ("AutoModel.from_pretrained(name, trust_remote_code=False)", ["AutoModel.from_pretrained"]),
        ("AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)", []),
        ("load(AutoModel.from_pretrained)", ["from_pretrained passed on"]),
    ],
)
def test_what_is_told(line, what):
    assert list(findings(ast.parse(line))) == what


def test_pages_build_their_text_without_evaluation():
    for path in [*ROOT.glob("src/arrol/reports/**/*.js"), *ROOT.glob("src/arrol/reports/**/*.html")]:
        words = r"\beval\(|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\bimport\(| on\w+="
        assert re.findall(words, path.read_text("utf-8")) == [], path


class Written:
    """Reading its pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "a pickle ran")


def lay_checkpoint(folder, data):
    checkpoint = folder / "checkpoints" / "step-000001"
    (checkpoint / "policy").mkdir(parents=True)
    for name in ("state.json", "state.safetensors", "optimizer.safetensors", "policy/model.safetensors"):
        (checkpoint / name).write_bytes(data)
    (checkpoint / "policy" / "config.json").write_text("{}")
    return checkpoint


def of_file(name, read):
    """Reads one file that holds the pickle."""

    def reads(folder, data):
        (folder / name).write_bytes(data)
        return read(folder / name)

    return reads


def of_texts(folder, data):
    (folder / "texts").mkdir()
    step_file(folder, 1).write_bytes(data)
    return read_texts(folder, 1)


READERS = {
    "estimator": of_file("estimator.safetensors", EstimatorSnapshot.read),
    "pool": of_file("pool.safetensors", Pool.load),
    "records": of_file("records.jsonl", read_records),
    "run": of_file("records.jsonl", lambda path: read_run(path.parent)),
    "config": of_file("run.toml", read_toml),
    "demonstrations": of_file("shown.jsonl", lambda path: file_demonstrations(str(path))),
    "texts": of_texts,
    "state": lambda folder, data: load_state(lay_checkpoint(folder, data)),
    "optimizer": lambda folder, data: load_optimizer(lay_checkpoint(folder, data), None, 1.0),
    "policy": lambda folder, data: require_policy(lay_checkpoint(folder, data)),
    "model": lambda folder, data: require_model_files(lay_checkpoint(folder, data) / "policy", "model"),
    **{
        f"samples{suffix}": of_file(f"samples{suffix}", read_samples)
        for suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz")
    },
    **{
        f"rows{suffix}": of_file(f"train{suffix}", lambda path: Columns().read(str(path), "train"))
        for suffix in (".jsonl", ".json", ".csv", ".parquet")
    },
}


@pytest.mark.parametrize("protocol", [0, 5])
@pytest.mark.parametrize("name", list(READERS))
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(name, protocol, tmp_path):
    canary = tmp_path / "canary"
    data = pickle.dumps(Written(str(canary)), protocol)
    (tmp_path / "place").mkdir()
    try:
        read = READERS[name](tmp_path / "place", data)
    except ArrolError:
        read = []
    assert read == [], "records without a newline are the line that a crash tore"
    assert not canary.exists()
