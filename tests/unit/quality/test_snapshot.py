"""What an estimator knew survives the journey as bytes, and nothing else is taken for it."""

import json
import random
import types
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save

from arrol.configs.method import QualityConfig
from arrol.errors import ModelError
from arrol.quality.calibration import Calibration, ScoredEstimator
from arrol.quality.features import FeatureLayout
from arrol.quality.head import QualityHead
from arrol.quality.snapshot import KEY, EstimatorSnapshot, ModelFingerprint

ALL = ("last_hidden", "mean_hidden", "logprobs")
PROBES = (8, 16)
SCORES = np.array([-50.0, -3, -0.1, 0, 0.7, 4, 1e300, np.inf, -np.inf, np.nan])


def table(seed, num_bins):
    rng = np.random.default_rng(seed)
    calibration = Calibration(QualityConfig(num_bins=num_bins, min_class_records=1))
    score = rng.normal(size=200)
    calibration.refit(score, (score + rng.normal(size=200) > 0).astype(float), rng.uniform(1, 5, 200))
    return calibration


def snapshot_of(names=ALL, probes=PROBES, *, hidden_size=5, width=7, num_bins=9, version=12):
    layout = FeatureLayout(names, hidden_size)
    heads = [QualityHead(layout.num_features, width, seed) for seed in range(len(probes))]
    for seed, head in enumerate(heads):
        generator = torch.Generator().manual_seed(seed)
        torch.nn.init.normal_(head.second.weight, generator=generator)
        head.mean_F, scale_F = torch.rand(2, layout.num_features, generator=generator)
        head.scale_F = scale_F + 0.1
    tables = [table(seed, num_bins) for seed in range(len(probes))]
    return EstimatorSnapshot(layout, probes, heads, tables, version=version)


def features_of(snapshot, count=20):
    rows = np.random.default_rng(3).normal(size=(count, snapshot.layout.num_features)).astype(np.float32)
    rows[0, 0], rows[1, -1] = np.nan, np.inf
    return rows


def assert_same(one, other):
    assert (one.layout, one.probe_tokens, one.version) == (other.layout, other.probe_tokens, other.version)
    features = features_of(one)
    for probe in range(len(one.probe_tokens)):
        np.testing.assert_array_equal(one.scores(features, probe), other.scores(features, probe))
        np.testing.assert_array_equal(one.quality(SCORES, probe), other.quality(SCORES, probe))


@pytest.mark.parametrize("names", [ALL, ("logprobs",), ("mean_hidden", "last_hidden")], ids="+".join)
@pytest.mark.parametrize("probes", [(8,), PROBES, (1, 2, 1024)], ids=len)
def test_bytes_hold_everything(names, probes):
    snapshot = snapshot_of(names, probes)
    blob = snapshot.to_bytes()
    assert type(blob) is bytes
    again = EstimatorSnapshot.from_bytes(blob)
    assert_same(again, snapshot)
    assert_same(EstimatorSnapshot.from_bytes(again.to_bytes()), snapshot)


MODEL = types.SimpleNamespace(model_type="llama", hidden_size=5, num_hidden_layers=2, vocab_size=9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "qwen3"}, "qwen3 (hidden_size 5, num_hidden_layers 2, vocab_size 9)"),
        ({"num_hidden_layers": 3}, "llama (hidden_size 5, num_hidden_layers 3, vocab_size 9)"),
        ({"vocab_size": 8}, "llama (hidden_size 5, num_hidden_layers 2, vocab_size 8)"),
    ],
)
def test_the_head_of_another_model_is_refused_by_both_names(changes, told):
    snapshot = snapshot_of()
    snapshot.model = ModelFingerprint.of(MODEL)
    again = EstimatorSnapshot.from_bytes(snapshot.to_bytes())
    again.require_model(MODEL)
    with pytest.raises(ModelError) as caught:
        again.require_model(types.SimpleNamespace(**{**vars(MODEL), **changes}))
    assert str(caught.value) == (
        f"estimator.model = llama (hidden_size 5, num_hidden_layers 2, vocab_size 9): the model's is {told}; "
        "load the estimator that was trained with this model"
    )


def test_without_a_fingerprint_the_hidden_size_is_compared():
    snapshot = EstimatorSnapshot.from_bytes(with_header(model=None))
    snapshot.require_model(types.SimpleNamespace(hidden_size=5))
    with pytest.raises(ModelError, match=r"^estimator.hidden_size = 5: the model's is 6; load the estimator that"):
        snapshot.require_model(types.SimpleNamespace(hidden_size=6))


def test_a_file_holds_everything(tmp_path):
    snapshot, path = snapshot_of(), tmp_path / "estimator"
    snapshot.write(path)
    assert_same(EstimatorSnapshot.read(path), snapshot)
    assert_same(EstimatorSnapshot.read(str(path)), snapshot)


def test_probes_have_heads_and_tables_of_their_own():
    snapshot = snapshot_of()
    features = features_of(snapshot)[2:]
    assert not np.allclose(snapshot.scores(features, 0), snapshot.scores(features, 1))
    assert not np.allclose(snapshot.quality(SCORES[:6], 0), snapshot.quality(SCORES[:6], 1))


def test_a_table_that_is_not_ready_says_the_prior():
    layout, calibration = FeatureLayout(("logprobs",), 1), Calibration(QualityConfig())
    calibration.prior = 0.375
    snapshot = EstimatorSnapshot(layout, (8,), [QualityHead(3, 4, 0)], [calibration], version=0)
    again = EstimatorSnapshot.from_bytes(snapshot.to_bytes())
    assert again.quality(np.array([-9.0, 9.0]), 0).tolist() == [0.375, 0.375]


def test_a_snapshot_does_not_learn_on():
    layout, head, calibration = FeatureLayout(("logprobs",), 1), QualityHead(3, 4, 0), table(0, 9)
    snapshot = EstimatorSnapshot(layout, (8,), [head], [calibration], version=1)
    features = features_of(snapshot)
    score, quality = snapshot.scores(features, 0), snapshot.quality(SCORES, 0)
    torch.nn.init.ones_(head.second.weight)
    calibration.prior, calibration.quality_B, calibration.is_ready = 0.9, np.full(9, 0.9), False
    np.testing.assert_array_equal(snapshot.scores(features, 0), score)
    np.testing.assert_array_equal(snapshot.quality(SCORES, 0), quality)


def test_tables_alone_give_the_same_quality():
    """As plain JSON, which is how they travel between processes."""
    snapshot, served = snapshot_of(), ScoredEstimator()
    tables = snapshot.tables()
    for state in (tables, json.loads(json.dumps(tables, default=np.ndarray.tolist))):
        served.load(state)
        assert (served.version, served.probe_tokens) == (12, PROBES)
        for probe in range(2):
            np.testing.assert_array_equal(served.at(PROBES).quality(SCORES, probe), snapshot.quality(SCORES, probe))
    assert tables["features"] == list(ALL)


def framed(header):
    """A file that claims to be safetensors."""
    return len(header).to_bytes(8, "little") + header


def with_header(**changes):
    """A good file of a release without sums, with a few things said differently."""
    blob = snapshot_of().to_bytes()
    length = int.from_bytes(blob[:8], "little")
    outer = json.loads(blob[8 : 8 + length])
    inner = {**json.loads(outer["__metadata__"][KEY]), "sha256": None, **changes}
    outer["__metadata__"][KEY] = json.dumps({key: value for key, value in inner.items() if value is not None})
    return framed(json.dumps(outer).encode()) + blob[8 + length :]


TABLE = {"prior": 0.5, "quality": [0.5] * 9, "is_ready": True}
WEIGHTS = {"weight": torch.zeros(3)}
STRANGERS = {
    "empty": b"",
    "short": b"\x01",
    "header alone": (0).to_bytes(8, "little"),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "noise": np.random.default_rng(0).bytes(4096),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "text": b"[model]\nname = 'x'\n" * 20,
    "length beyond the file": (2**63).to_bytes(8, "little") + b"{}",
    "length of all": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "length one too many": (3).to_bytes(8, "little") + b"{}",
    "not JSON": framed(b"{" * 50),
    "not text": framed(b"\xff\xfe" * 20),
    "deep JSON": framed(b"[" * 100_000),
    "a list": framed(b"[]"),
    "a number": framed(b"3"),
    "no metadata": framed(b"{}"),
    "metadata of another kind": framed(b'{"__metadata__": 3}'),
    "weights": save(WEIGHTS),
    "weights with metadata": save(WEIGHTS, metadata={"format": "pt"}),
    "ours without tensors": framed(json.dumps({"__metadata__": {KEY: "{}"}}).encode()),
    "ours with a number": save(WEIGHTS, metadata={KEY: "3"}),
    "ours with nothing": save(WEIGHTS, metadata={KEY: "{}"}),
    "unknown features": with_header(features=["last_hidden", "mean_hidden", "entropy"]),
    "features as a word": with_header(features="logprobs"),
    "no features": with_header(features=[]),
    "fewer features": with_header(features=["logprobs"]),
    "another width": with_header(width=8),
    "a monstrous width": with_header(width=10**12),
    "a monstrous size": with_header(hidden_size=10**12),
    "a negative size": with_header(hidden_size=-5),
    "an endless size": with_header(hidden_size=float("inf")),
    "more probes": with_header(probe_tokens=[8, 16, 32]),
    "fewer probes": with_header(probe_tokens=[8]),
    "no probes": with_header(probe_tokens=[], tables=[]),
    "probes that are none": with_header(probe_tokens=3),
    "probes as words": with_header(probe_tokens=["a", "b"]),
    "fewer tables": with_header(tables=[TABLE]),
    "empty tables": with_header(tables=[{**TABLE, "quality": []}] * 2),
    "tables as words": with_header(tables=["a", "b"]),
    "tables of words": with_header(tables=[{**TABLE, "quality": ["a"] * 9}] * 2),
    "tables without priors": with_header(tables=[{"quality": [0.5], "is_ready": True}] * 2),
    "a model of words": with_header(model=["llama", "a", "b", "c"]),
    "a model cut short": with_header(model=["llama", 5]),
    "no version": with_header(version=None),
    "an endless version": with_header(version=float("inf")),
}


@pytest.mark.parametrize("blob", STRANGERS.values(), ids=STRANGERS)
def test_what_is_no_estimator_is_refused(tmp_path, blob):
    path = tmp_path / "stranger"
    path.write_bytes(blob)
    with pytest.raises(ModelError) as caught:
        EstimatorSnapshot.read(path)
    assert str(caught.value).startswith(f"estimator = {str(path)!r}: damaged or not an estimator")
    assert "arrol export" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_header_is_no_stranger():
    assert_same(EstimatorSnapshot.from_bytes(with_header()), snapshot_of())


def test_a_changed_bit_is_found_wherever_it_is():
    snapshot = snapshot_of()
    blob, rng = snapshot.to_bytes(), random.Random(0)
    for place in {*range(8, len(blob), 97), *(rng.randrange(len(blob)) for _ in range(200))}:
        changed = bytearray(blob)
        changed[place] ^= 1 << rng.randrange(8)
        with suppress(ModelError):
            assert_same(EstimatorSnapshot.from_bytes(bytes(changed)), snapshot)  # a blank between two fields
    with pytest.raises(ModelError, match="damaged or not an estimator"):
        EstimatorSnapshot.from_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(kept):
    blob = snapshot_of().to_bytes()
    with pytest.raises(ModelError, match="estimator = 'bytes'"):
        EstimatorSnapshot.from_bytes(blob[: int(kept * len(blob))])


def test_an_absent_file_is_named(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ModelError, match=r"no such file; make one with arrol export") as caught:
            EstimatorSnapshot.read(path)
        assert repr(str(path)) in str(caught.value)
