"""Rows of a forward pass to features and scores at a probe. Torch, no vLLM.

A request may be fed in any portions: one token per step, several when drafts are verified, all again after a
preemption. All state is therefore kept by completion position, and a repeated position changes nothing. A request with
a skipped position (its cache came from elsewhere) has no features and no score, and is kept.

A step has two halves with sampling in between: ``gather`` copies rows before the engine reuses its buffer, ``finish``
runs when the step's tokens are known, under asynchronous scheduling after the next step has begun.
Legend: ``N`` fed tokens of a step, ``C`` probes reached, ``D`` hidden size, ``F`` features, ``S`` slots, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from arrol.engines.vllm.groups import ProbeScore
from arrol.quality.features import END, logprob_statistics
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import RolloutId

FIRST_SLOTS = 64
"""Running sums allocated at first; doubled when more requests are watched at once."""
MAX_KEPT = 65536
"""Rollouts whose features are held for a trainer that does not fetch them; the oldest are dropped first."""


class Tag(NamedTuple):
    """Under which a rollout's features are held for its trainer; other runs have rollouts of the same id."""

    run: str
    rollout_id: RolloutId


class Watch(NamedTuple):
    """What the scheduler tells the worker about one request in one step."""

    start: int
    """Completion index (from 0) of the first token fed in this step; negative while the prompt is being fed."""
    probes: tuple[int, ...]
    tag: Tag | None
    """None: its features are not held."""
    score_end: bool = False
    """Score it in every step, since any may be its last."""


@dataclass(frozen=True)
class Fed:
    """One watched request in one step."""

    request_id: str
    watch: Watch
    count: int
    """Tokens fed that are certain: drafts only once accepted."""
    first_row: int

    @property
    def end(self) -> int:
        """Completion tokens fed, at most up to the last probe where the end is not scored."""
        fed = self.watch.start + self.count
        return fed if self.watch.score_end or not self.watch.probes else min(fed, self.watch.probes[-1])


@dataclass
class _Record:
    """Progress of a request up to its last probe."""

    slot: int = -1
    """Row of the running sums; -1 where no mean is needed."""
    fed: int = 0
    """Completion tokens in the running sum."""
    is_whole: bool = True
    """No position was skipped."""
    logprobs: list[float] = field(default_factory=list)
    """By completion index, of the sampled token; NaN where unknown."""

    def sampled(self, first: int, values: Sequence[float]) -> None:
        """Tokens ``first ...`` were sampled; repeated after a preemption."""
        self.logprobs += [np.nan] * (first + len(values) - len(self.logprobs))
        self.logprobs[first : first + len(values)] = values


@dataclass(frozen=True)
class _Portion:
    """Consecutive tokens of one request, up to a probe or the end of what was fed."""

    record: _Record
    fed: Fed
    begin: int
    end: int

    @property
    def rows(self) -> range:
        first = self.fed.first_row - self.fed.watch.start
        return range(first + self.begin, first + self.end)


@dataclass
class Gathered:
    """Result of the first half of a step."""

    probes: list[tuple[Fed, int, bool]]
    """(request, probe length, whether every token before it was seen)."""
    hidden_CX: torch.Tensor
    """float32 on the host (a copy may be under way): last hidden state and, where needed, the mean."""
    ready: torch.cuda.Event | None


class ProbeReader:
    """Running sums and log-probabilities of watched requests; one per worker."""

    def __init__(self, snapshot: EstimatorSnapshot | None = None) -> None:
        self.snapshot = snapshot
        self._records: dict[str, _Record] = {}
        self._sum_SD = torch.zeros(0, 0)
        self._free: list[int] = []
        self._kept: dict[Tag, dict[int, np.ndarray]] = {}
        """Tag -> probe length -> features ``[F]``."""

    @property
    def _needs_mean(self) -> bool:
        return self.snapshot is not None and "mean_hidden" in self.snapshot.layout.names

    def forget(self, request_ids: Iterable[str]) -> None:
        """These requests have ended."""
        for request_id in request_ids:
            record = self._records.pop(request_id, None)
            if record is not None and record.slot >= 0:
                self._free.append(record.slot)

    def gather(self, fed: Sequence[Fed], hidden_ND: torch.Tensor) -> Gathered | None:
        """Add the rows to the running sums; copy what the probes of this step read. None without a probe."""
        if self.snapshot is None:
            return None
        probes: list[tuple[Fed, int, bool]] = []
        parts: list[torch.Tensor] = []
        for portions in self._portions(fed):
            self._add(portions, hidden_ND)
            reached = [
                p for p in portions if p.end in p.fed.watch.probes or (p.fed.watch.score_end and p.end == p.fed.end)
            ]
            if reached:
                probes += [(p.fed, p.end, p.record.is_whole) for p in reached]
                parts.append(self._hidden(reached, hidden_ND))
        return Gathered(probes, *_to_host(torch.cat(parts))) if probes else None

    def finish(
        self, fed: Sequence[Fed], sampled: Mapping[str, np.ndarray], gathered: Gathered | None
    ) -> list[ProbeScore]:
        """Scores of the probes; ``sampled`` are log-probabilities of this step's tokens, where requested."""
        for one in fed:
            logprobs, record = sampled.get(one.request_id), self._records.get(one.request_id)
            if logprobs is not None and len(logprobs) and record is not None:
                record.sampled(one.watch.start + one.count - (len(logprobs) - 1), logprobs.tolist())
        if gathered is None or self.snapshot is None:
            return []
        if gathered.ready is not None:
            gathered.ready.synchronize()
        return self._scores(gathered, self.snapshot)

    def take_kept(self, run: str = "") -> dict[RolloutId, dict[int, np.ndarray]]:
        """Rollout -> probe length -> features of a run, held since the last call."""
        return {tag.rollout_id: self._kept.pop(tag) for tag in list(self._kept) if tag.run == run}

    def _portions(self, fed: Sequence[Fed]) -> list[list[_Portion]]:
        """Rounds of portions, at most one per request and round; a single round unless drafts crossed a probe."""
        rounds: list[list[_Portion]] = []
        for one in fed:
            start, record = one.watch.start, self._records.setdefault(one.request_id, _Record())
            if self._needs_mean and record.slot < 0:
                record.slot, record.is_whole = self._slot(), record.is_whole and record.fed == 0
            begin, end = max(start, record.fed), one.end
            record.is_whole &= start <= record.fed
            cuts = [length for length in one.watch.probes if begin < length < end] + [end]
            for number, cut in enumerate(cuts if begin < end else []):
                if number == len(rounds):
                    rounds.append([])
                rounds[number].append(_Portion(record, one, begin, cut))
                begin = record.fed = cut
        return rounds

    def _add(self, portions: Sequence[_Portion], hidden_ND: torch.Tensor) -> None:
        if not self._needs_mean:
            return
        if self._sum_SD.shape[1] != hidden_ND.shape[1]:  # width and device are known with the first rows
            self._sum_SD = torch.zeros(len(self._sum_SD), hidden_ND.shape[1], device=hidden_ND.device)
        rows = [row for portion in portions for row in portion.rows]
        slots = [portion.record.slot for portion in portions for _ in portion.rows]
        index_2N = torch.tensor([rows, slots], device=hidden_ND.device)
        self._sum_SD.index_add_(0, index_2N[1], hidden_ND[index_2N[0]].float())

    def _hidden(self, reached: Sequence[_Portion], hidden_ND: torch.Tensor) -> torch.Tensor:
        """``[C, D]`` or ``[C, 2 D]``: the last hidden state at each probe, then the mean."""
        device = hidden_ND.device
        last_CD = hidden_ND[torch.tensor([portion.rows[-1] for portion in reached], device=device)].float()
        if not self._needs_mean:
            return last_CD
        slots = torch.tensor([portion.record.slot for portion in reached], device=device)
        length_C = torch.tensor([float(portion.end) for portion in reached], device=device)
        return torch.cat([last_CD, self._sum_SD[slots] / length_C[:, None]], dim=1)

    def _slot(self) -> int:
        """A free row of the sums, set to zero."""
        if not self._free:
            old = len(self._sum_SD)
            new = max(FIRST_SLOTS, 2 * old)
            grown = torch.zeros(new, self._sum_SD.shape[1], device=self._sum_SD.device)
            grown[:old] = self._sum_SD
            self._sum_SD = grown
            self._free = list(range(new - 1, old - 1, -1))
        slot = self._free.pop()
        self._sum_SD[slot] = 0.0
        return slot

    def _scores(self, gathered: Gathered, snapshot: EstimatorSnapshot) -> list[ProbeScore]:
        """Assemble features, score them by the head of their probe, keep the features that a trainer requested."""
        probes, hidden_CX, size = gathered.probes, gathered.hidden_CX.numpy(), snapshot.layout.hidden_size
        statistics_C3 = self._logprob_statistics(probes)
        features_CF = snapshot.layout.assemble(hidden_CX[:, :size], hidden_CX[:, size:], statistics_C3)
        features_CF[[not is_whole for _, _, is_whole in probes]] = np.nan
        heads = {length: number for number, length in enumerate(snapshot.probe_tokens)}
        at_end = len(heads) - 1  # the head for ends, else that of the last probe
        head_C = np.array([heads.get(length, at_end if one.watch.score_end else -1) for one, length, _ in probes])
        score_C = np.full(len(probes), np.nan)
        for number in heads.values():
            score_C[head_C == number] = snapshot.scores(features_CF[head_C == number], number)
        for (one, length, _), features_F in zip(probes, features_CF, strict=True):
            if one.watch.tag is not None:
                self._keep(one.watch.tag, length if length in one.watch.probes else END, features_F)
        confidence_C = np.nan_to_num(statistics_C3[:, 2])
        return [
            ProbeScore(one.request_id, length, float(score), float(confidence))
            for (one, length, _), score, confidence in zip(probes, score_C, confidence_C, strict=True)
        ]

    def _logprob_statistics(self, probes: Sequence[tuple[Fed, int, bool]]) -> np.ndarray:
        """float32 ``[C, 3]``: sum, minimum, mean of the tokens before each probe; NaN where not all are known."""
        length_C = np.array([length for _, length, _ in probes])
        logprobs_CT = np.full((len(probes), max(length_C)), np.nan, np.float32)
        for row_T, (one, length, _) in zip(logprobs_CT, probes, strict=True):
            record = self._records.get(one.request_id)
            known = [] if record is None else record.logprobs[:length]
            row_T[: len(known)] = known
        return logprob_statistics(logprobs_CT, length_C)

    def _keep(self, tag: Tag, length: int, features_F: np.ndarray) -> None:
        self._kept.setdefault(tag, {})[length] = features_F
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]


def _to_host(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A host copy without waiting, and the event that marks its completion."""
    if tensor.device.type == "cpu":
        return tensor, None
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
