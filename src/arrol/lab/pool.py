"""A pool: many rollouts of one policy on the same prompts, on which any rule can be judged without training.

Of each rollout: reward, length, tokens with their log-probabilities, features at many lengths, and a count sketch of
the gradient of its log-probability. One safetensors file with its provenance. Numpy only.

Legend: ``P`` prompts, ``N`` rollouts of a prompt, ``K`` probe lengths, ``F`` features, ``D`` numbers of a sketch,
``T`` completion tokens of all rollouts, one rollout behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from arrol.errors import DataError
from arrol.records.manifest import arrays_sum, value_sum

FORMAT = "arrol-pool-1"
SUFFIX = ".safetensors"
HEAD = {"keys", "probe_tokens", "meta"}


@dataclass(frozen=True)
class Pool:
    """Rollouts of one policy. Missing rollouts have reward NaN and length 0.

    >>> pool = Pool(("a",), np.array([[1.0, 0.0]]), np.array([[3, 5]]))
    >>> pool.num_prompts, pool.num_rollouts, pool.has_gradients
    (1, 2, False)
    """

    keys: tuple[str, ...]
    """``P`` names of the prompts."""
    reward_PN: np.ndarray
    """float32; NaN where there is no rollout, or none that was verified."""
    length_PN: np.ndarray
    """int32: completion tokens."""
    is_truncated_PN: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    """The length limit cut it off."""
    token_ids_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    logprobs_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Log-probabilities of the sampled tokens, after temperature."""
    probe_tokens: tuple[int, ...] = ()
    """``K`` ascending lengths at which features were read."""
    features_PNKF: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float16))
    """float16; NaN where the rollout ended before."""
    quality_PNK: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """Predicted probability of ending right, by heads that never saw the prompt; NaN where the rollout ended before."""
    sketch_PND: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """Count sketch of the gradient of the completion's log-probability."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: command, commit, versions, device, config, parameters, seconds."""
    success_PN: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """float32: 1 right, 0 wrong, NaN unknown; empty where a reward above 0.5 is right."""

    def __post_init__(self) -> None:
        shape = (len(self.keys), self.length_PN.shape[1])
        assert self.reward_PN.shape == self.length_PN.shape == shape, (self.reward_PN.shape, shape)
        if not self.is_truncated_PN.size:
            object.__setattr__(self, "is_truncated_PN", np.zeros(shape, bool))

    @property
    def num_prompts(self) -> int:
        return len(self.keys)

    @property
    def num_rollouts(self) -> int:
        """Rollouts of a prompt, missing ones included."""
        return self.length_PN.shape[1]

    @property
    def has_gradients(self) -> bool:
        return self.sketch_PND.size > 0

    @property
    def has_features(self) -> bool:
        return self.features_PNKF.size > 0

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the run that it was collected for; DataError without one."""
        config = self.meta.get("config")
        if not isinstance(config, Mapping):
            raise DataError("pool: holds no config of a run; collect it with arrol lab")
        return config

    @property
    def num_parameters(self) -> int:
        return int(self.meta.get("num_parameters", 0))

    @cached_property
    def is_known_PN(self) -> np.ndarray:
        """bool: there is a verified rollout."""
        return ~np.isnan(self.reward_PN) & (self.length_PN > 0)

    @cached_property
    def label_PN(self) -> np.ndarray:
        """float64: 1 right, 0 wrong, NaN unknown or missing."""
        right_PN = self.success_PN if self.success_PN.size else self.reward_PN > 0.5
        return np.where(self.is_known_PN, right_PN, np.nan).astype(float)

    @cached_property
    def _start_PN(self) -> np.ndarray:
        """Where each rollout begins in the flat arrays."""
        return (np.cumsum(self.length_PN) - self.length_PN.ravel()).reshape(self.length_PN.shape)

    def tokens(self, prompt: int, rollout: int, length: int | None = None) -> tuple[int, ...]:
        """The first ``length`` tokens of a rollout; zeros where the pool has no tokens."""
        count = int(self.length_PN[prompt, rollout]) if length is None else length
        start = int(self._start_PN[prompt, rollout])
        return tuple(self.token_ids_T[start : start + count].tolist()) if len(self.token_ids_T) else (0,) * count

    def logprobs(self, prompt: int, rollout: int) -> np.ndarray:
        """float32: log-probabilities of a rollout's tokens; zeros where the pool has none."""
        start, count = int(self._start_PN[prompt, rollout]), int(self.length_PN[prompt, rollout])
        return self.logprobs_T[start : start + count] if len(self.logprobs_T) else np.zeros(count, np.float32)

    def mean_logprobs(self) -> np.ndarray:
        """float64 ``[P, N, K]``: mean log-probability up to each probe; NaN where the rollout ended before."""
        mean_PNK = np.full((*self.length_PN.shape, len(self.probe_tokens)), np.nan)
        total_T = np.r_[0.0, np.cumsum(self.logprobs_T, dtype=np.float64)]
        for k, tokens in enumerate(self.probe_tokens):
            reached_PN = self.length_PN >= tokens
            if len(self.logprobs_T):
                start = self._start_PN[reached_PN]
                mean_PNK[reached_PN, k] = (total_T[start + tokens] - total_T[start]) / tokens
        return mean_PNK

    def part(self, prompts: Sequence[int] | np.ndarray) -> Pool:
        """The pool of these prompts."""
        rows = np.asarray(prompts, int)
        flat = [slice(self._start_PN[p, 0], self._start_PN[p, -1] + self.length_PN[p, -1]) for p in rows]
        changed: dict[str, Any] = {"keys": tuple(self.keys[p] for p in rows)}
        for name in ("token_ids_T", "logprobs_T"):
            values = getattr(self, name)
            changed[name] = np.concatenate([values[s] for s in flat]) if len(values) else values
        for name in _BY_PROMPT:
            values = getattr(self, name)
            changed[name] = values[rows] if values.size else values
        return replace(self, **changed)

    def save(self, path: str | Path) -> None:
        """Write one file; a file of that name is replaced when the new one is whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in (*_BY_PROMPT, *_FLAT)}
        head = {"keys": list(self.keys), "probe_tokens": list(self.probe_tokens), "meta": dict(self.meta)}
        head["sha256"] = value_sum([head, arrays_sum(arrays)])
        part = path.with_name(path.name + ".part")
        save_file(arrays, part, metadata={"format": FORMAT, "pool": json.dumps(head)})
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Pool:
        """Inverse of :meth:`save`; DataError for a file that is no pool."""
        try:
            with safe_open(str(path), "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise DataError(f"pool = {str(path)!r}: is no pool; give a file that arrol lab wrote")
                names = [name for name in (*_BY_PROMPT, *_FLAT) if name not in _ADDED or name in file.keys()]  # noqa: SIM118
                arrays = {name: file.get_tensor(name) for name in names}
                head = json.loads(metadata["pool"])
            if not isinstance(head, dict):
                raise ValueError("its header is no object")
            if "sha256" in head and head.pop("sha256") != value_sum([head, arrays_sum(arrays)]):
                raise ValueError("it is not what was written")
            if set(head) != HEAD:  # among them a damaged name of the sum
                raise ValueError("its header has other fields")
            _require_shapes(head, arrays)
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"pool = {str(path)!r}: cannot be read ({error}); remove it and collect it again") from None
        return cls(tuple(head["keys"]), probe_tokens=tuple(head["probe_tokens"]), meta=head["meta"], **arrays)

    @classmethod
    def join(cls, parts: Sequence[Pool]) -> Pool:
        """Pools of different prompts, of the same policy and shape, behind each other; ``meta`` of the last."""
        names = (*_BY_PROMPT, *_FLAT)
        if any(part.success_PN.size for part in parts):  # blocks of the first version lack it
            parts = [replace(part, success_PN=part.label_PN.astype(np.float32)) for part in parts]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        keys = tuple(key for part in parts for key in part.keys)
        return cls(keys, probe_tokens=parts[-1].probe_tokens, meta=parts[-1].meta, **arrays)


def _require_shapes(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError, which names the part, where header and arrays are not of one pool."""
    keys, probes, meta = head["keys"], head["probe_tokens"], head["meta"]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys: is no list of texts")
    is_whole = isinstance(probes, list) and all(type(tokens) is int and 0 < tokens < 2**31 for tokens in probes)
    if not is_whole or sorted(set(probes)) != probes:
        raise ValueError(f"probe_tokens: {str(probes)[:60]} are no ascending numbers of tokens")
    seconds = meta.get("seconds", {}) if isinstance(meta, dict) else None
    if not isinstance(seconds, dict) or not all(type(each) in (int, float) for each in seconds.values()):
        raise ValueError("meta: is no object with seconds by phase")
    if type(meta.get("num_parameters", 0)) is not int:
        raise ValueError("meta: num_parameters is no whole number")
    shape = (len(keys), *arrays["length_PN"].shape[1:2])
    inner = {"features_PNKF": (len(probes), None), "quality_PNK": (len(probes),), "sketch_PND": (None,)}
    for name, array in arrays.items():
        wanted = (*shape, *inner.get(name, ())) if name in _BY_PROMPT else (None,)
        kinds = {"length_PN": "i", "token_ids_T": "i", "is_truncated_PN": "b"}.get(name, "f")
        is_right = len(wanted) == array.ndim and all(
            n in (None, size) for n, size in zip(wanted, array.shape, strict=True)
        )
        if array.dtype.kind != kinds or not (is_right or (not array.size and name not in ("reward_PN", "length_PN"))):
            raise ValueError(f"{name}: {array.dtype} of {array.shape}, in a pool of {shape}")
    length_PN, total = arrays["length_PN"], int(arrays["length_PN"].sum(dtype=np.int64))
    if (length_PN < 0).any() or any(len(arrays[name]) not in (0, total) for name in _FLAT):
        raise ValueError(f"length_PN: {total} tokens, the pool has {[len(arrays[name]) for name in _FLAT]}")


_BY_PROMPT = tuple(f.name for f in fields(Pool) if "_P" in f.name)
_FLAT = ("token_ids_T", "logprobs_T")
_ADDED = ("success_PN",)
"""Arrays that files of the first version lack."""
