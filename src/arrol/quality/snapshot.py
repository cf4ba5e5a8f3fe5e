"""What an estimator knows at one moment, frozen for a host in another process: heads, tables and what they read.

One safetensors blob (its header holds the rest as JSON), so it crosses processes and lies on disk without pickle. An
estimator that serves is never trained; it has no buffer and no optimiser.
Legend: ``C`` candidates, ``F`` features.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from arrol.configs.method import QualityConfig
from arrol.errors import ModelError
from arrol.quality.calibration import Calibration, ScoredEstimator
from arrol.quality.features import FeatureLayout
from arrol.quality.head import QualityHead
from arrol.records.manifest import arrays_sum, value_sum
from arrol.types import State

KEY = "arrol-estimator"
"""Entry of the blob's header; its value is JSON."""
FIELDS = {"version", "features", "hidden_size", "model", "probe_tokens", "width", "tables"}


class TextConfig(Protocol):
    """The part of a Hugging Face text model's config that tells models apart."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int


class ModelFingerprint(NamedTuple):
    """Architecture and size of the model that an estimator was trained with; training changes none of it."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int

    @classmethod
    def of(cls, config: TextConfig) -> ModelFingerprint:
        return cls(config.model_type, config.hidden_size, config.num_hidden_layers, config.vocab_size)

    def __str__(self) -> str:
        sizes = zip(self._fields[1:], self[1:], strict=True)
        return f"{self.model_type} ({', '.join(f'{name} {size}' for name, size in sizes)})"


class EstimatorSnapshot:
    """An :class:`arrol.protocols.Estimator` that no longer learns."""

    model: ModelFingerprint | None = None
    """Written by ``arrol export``; unknown in older files and in a training run's own pushes."""

    def __init__(
        self,
        layout: FeatureLayout,
        probe_tokens: Sequence[int],
        heads: Sequence[QualityHead],
        calibrations: Sequence[Calibration],
        *,
        version: int,
    ) -> None:
        assert len(probe_tokens) == len(heads) == len(calibrations), (probe_tokens, len(heads), len(calibrations))
        self.layout, self.probe_tokens, self.version = layout, tuple(probe_tokens), version
        self._heads, self._calibrations = copy.deepcopy((list(heads), list(calibrations)))

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]``: logits of a probe's head."""
        return self._heads[probe].scores(features_CF)

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]`` in [0, 1]."""
        return self._calibrations[probe].quality(np.asarray(score_C, float))

    @property
    def is_finite(self) -> bool:
        """Whether all weights of the heads are finite; a head with a NaN scores no rollout."""
        return all(bool(value.isfinite().all()) for head in self._heads for value in head.state_dict().values())

    def require_model(self, config: TextConfig) -> None:
        """ModelError when the estimator was trained with another model than that of ``config``."""
        known = self.model or self.layout.hidden_size
        shape = ModelFingerprint.of(config) if self.model else config.hidden_size
        if known != shape:
            field = "model" if self.model else "hidden_size"
            raise ModelError(
                f"estimator.{field} = {known}: the model's is {shape}; "
                "load the estimator that was trained with this model"
            )

    def tables(self) -> State:
        """What :class:`arrol.quality.calibration.ScoredEstimator` loads: the calibration without the heads."""
        return {
            "version": self.version,
            "features": list(self.layout.names),
            "probe_tokens": list(self.probe_tokens),
            "tables": [calibration.save() for calibration in self._calibrations],
        }

    def to_bytes(self) -> bytes:
        """The blob."""
        header = {
            "version": self.version,
            "features": list(self.layout.names),
            "hidden_size": self.layout.hidden_size,
            "model": self.model,
            "probe_tokens": list(self.probe_tokens),
            "width": self._heads[0].first.out_features,
            "tables": [
                {"prior": c.prior, "quality": c.quality_B.tolist(), "is_ready": c.is_ready} for c in self._calibrations
            ],
        }
        tensors = {
            f"{number}.{name}": value.detach().clone().contiguous()
            for number, head in enumerate(self._heads)
            for name, value in head.state_dict().items()
        }
        header["sha256"] = _sum(header, tensors)
        return save(tensors, metadata={KEY: json.dumps(header)})

    @classmethod
    def from_bytes(cls, blob: bytes, *, source: str = "bytes") -> EstimatorSnapshot:
        """Inverse of :meth:`to_bytes`; ModelError, naming ``source``, for anything else."""
        try:
            header, tensors = _header(blob), load(blob)
            if "sha256" in header and header.pop("sha256") != _sum(header, tensors):
                raise ValueError("not what was written")
            if not set(header) <= FIELDS:  # among them a damaged name of the sum
                raise ValueError("unknown fields")
            layout = FeatureLayout(QualityConfig(features=header["features"]).features, int(header["hidden_size"]))
            heads = [
                _head(tensors, number, layout, int(header["width"])) for number in range(len(header["probe_tokens"]))
            ]
            served = ScoredEstimator()
            served.load(header)
            if not 0 < len(heads) == len(served.calibrations):
                raise ValueError("heads and tables")
            model = header.get("model")
            shape = None if model is None else ModelFingerprint(str(model[0]), *map(int, model[1:]))
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise ModelError(
                f"estimator = {source!r}: damaged or not an estimator ({type(error).__name__}); "
                "give a file that arrol export wrote"
            ) from None
        made = cls(layout, served.probe_tokens, heads, list(served.calibrations.values()), version=served.version)
        made.model = shape
        return made

    def write(self, path: Path) -> None:
        """To a file."""
        path.write_bytes(self.to_bytes())

    @classmethod
    def read(cls, path: str | Path) -> EstimatorSnapshot:
        """From a file; ModelError when it is absent or not an estimator."""
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"estimator = {str(path)!r}: no such file; make one with arrol export")
        return cls.from_bytes(path.read_bytes(), source=str(path))


def _sum(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """Of everything that the blob holds; files of releases without sums have none."""
    arrays = {name: value.numpy() for name, value in tensors.items()}
    return value_sum([json.loads(json.dumps(header)), arrays_sum(arrays)])


def _header(blob: bytes) -> dict[str, Any]:
    """Safetensors: eight bytes of length, then a JSON object whose ``__metadata__`` holds ours."""
    length = int.from_bytes(blob[:8], "little")
    if not 0 < length <= len(blob) - 8:
        raise ValueError("no header")
    return json.loads(json.loads(blob[8 : 8 + length])["__metadata__"][KEY])


def _head(tensors: dict[str, torch.Tensor], number: int, layout: FeatureLayout, width: int) -> QualityHead:
    prefix = f"{number}."
    if tensors[prefix + "first.weight"].shape != (width, layout.num_features):
        raise ValueError("shape")
    head = QualityHead(layout.num_features, width, seed=0)
    head.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return head.eval()
