"""What the rows of a decode batch hold beside keys and values: tokens, log-probabilities, uniform numbers, sums.

Tensors grow with the rows and tokens in use. Legend: ``S`` rows, ``M`` completion tokens, ``D`` hidden size, ``C``
candidates, ``F`` features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from arrol.engines.embedded.sampling import token_uniforms
from arrol.quality.features import FeatureLayout, logprob_statistics
from arrol.types import Completion, FinishReason, RolloutId

FIRST_TOKENS = 64
"""Completion tokens for which there is room at first; doubled when a rollout needs more."""
TENSORS = ("token_S", "tokens_SM", "logprobs_SM", "uniforms_SM", "count_S", "bad_S", "hidden_sum_SD")
"""Tensors of :class:`Rows` that move with a row."""


@dataclass
class Row:
    """A rollout while it lives in a row."""

    rollout_id: RolloutId
    prompt: tuple[int, ...]
    num_completion: int = 0
    features_at: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Prompt and completion; the last token has not been fed yet."""
        return len(self.prompt) + self.num_completion


class Suspended(NamedTuple):
    """A rollout that gave up its row and goes on later, with the same tokens."""

    row: Row
    tokens_M: torch.Tensor
    logprobs_M: torch.Tensor
    hidden_sum_D: torch.Tensor

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens whose keys and values it had."""
        return (*self.row.prompt, *self.tokens_M[:-1].tolist())


class Rows:
    """The live rows, ``live[s]`` in row s, and their tensors."""

    def __init__(self, seed: int, most_tokens: int, hidden_size: int, device: torch.device) -> None:
        """``most_tokens`` of a completion; ``hidden_size`` 0 keeps no sum of hidden states."""
        self.live: list[Row] = []
        self._seed, self._most_tokens = seed, most_tokens
        self.token_S = torch.zeros(0, dtype=torch.long, device=device)
        """The last token, not fed yet."""
        self.tokens_SM = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.logprobs_SM = torch.zeros(0, 0, device=device)
        self.uniforms_SM = torch.zeros(0, 0, dtype=torch.float64, device=device)
        self.count_S = torch.zeros(0, dtype=torch.long, device=device)
        """Completion tokens."""
        self.bad_S = torch.zeros(0, dtype=torch.bool, device=device)
        """Logits were not finite."""
        self.hidden_sum_SD = torch.zeros(0, hidden_size, device=device)
        self.numbers_S = torch.zeros(0, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return len(self.live)

    def reserve(self, rows: int, tokens: int) -> None:
        """Room for this many rows and completion tokens, by doubling."""
        have, columns = self.tokens_SM.shape
        rows = have if rows <= have else max(rows, 2 * have)
        if tokens > columns:
            columns = min(max(FIRST_TOKENS, tokens, 2 * columns), self._most_tokens)
        if (rows, columns) == self.tokens_SM.shape:
            return
        grown = {}
        for name in TENSORS:
            old: torch.Tensor = getattr(self, name)
            shape = (rows, columns) if name.endswith("SM") else (rows, *old.shape[1:])
            grown[name] = old.new_zeros(shape)
            grown[name][tuple(slice(size) for size in old.shape)] = old
        for name, tensor in grown.items():
            setattr(self, name, tensor)
        for row in range(len(self.live)):
            self._draw(row)
        self.numbers_S = torch.arange(rows, device=self.numbers_S.device)

    def start(self, rollout_id: RolloutId, prompt: tuple[int, ...]) -> None:
        """A rollout without a token in the next row."""
        self.reserve(len(self.live) + 1, 1)
        self.live.append(Row(rollout_id, prompt))
        row = len(self.live) - 1
        self._draw(row)
        self.hidden_sum_SD[row] = 0.0
        self.count_S[row] = 0
        self.bad_S[row] = False

    def suspend(self, keep: int) -> list[Suspended]:
        """Take the rows from ``keep`` on out."""
        found = []
        for s, row in enumerate(self.live[keep:], keep):
            tokens_M, logprobs_M = (part[s, : row.num_completion].cpu() for part in (self.tokens_SM, self.logprobs_SM))
            found.append(Suspended(row, tokens_M.clone(), logprobs_M.clone(), self.hidden_sum_SD[s].cpu().clone()))
        del self.live[keep:]
        return found

    def resume(self, suspended: Suspended) -> None:
        """Let it go on in the next row."""
        row, count = len(self.live), suspended.row.num_completion
        self.start(suspended.row.rollout_id, suspended.row.prompt)
        self.live[row] = suspended.row
        self.tokens_SM[row, :count] = suspended.tokens_M.to(self.tokens_SM)
        self.logprobs_SM[row, :count] = suspended.logprobs_M.to(self.logprobs_SM)
        self.hidden_sum_SD[row] = suspended.hidden_sum_D.to(self.hidden_sum_SD)
        self.token_S[row] = suspended.tokens_M[-1]
        self.count_S[row] = count

    def write(self, rows: slice, token_S: torch.Tensor, logprob_S: torch.Tensor, bad_S: torch.Tensor) -> None:
        """The next token of these rows."""
        row_S, count_S = self.numbers_S[rows], self.count_S[rows]
        self.bad_S[rows] |= bad_S
        self.token_S[rows] = token_S
        self.tokens_SM[row_S, count_S] = token_S
        self.logprobs_SM[row_S, count_S] = logprob_S
        self.count_S[rows] += 1
        for row in self.live[rows]:
            row.num_completion += 1

    def tail(self, row: int, most: int) -> list[int]:
        """The last completion tokens of a row, at most so many."""
        count = self.live[row].num_completion
        found: list[int] = self.tokens_SM[row, max(0, count - most) : count].tolist()
        return found

    def uniforms(self, rows: slice) -> torch.Tensor:
        """float64 ``[S]``: the number of each row's next token."""
        return self.uniforms_SM[self.numbers_S[rows], self.count_S[rows]]

    def completions(self, gone: list[int], reasons: dict[RolloutId, FinishReason]) -> list[Completion]:
        """What these rows wrote."""
        longest = max(self.live[s].num_completion for s in gone)
        tokens = self.tokens_SM[gone, :longest].cpu().numpy()
        logprobs = self.logprobs_SM[gone, :longest].cpu().numpy()
        found = []
        for place, s in enumerate(gone):
            row, length = self.live[s], self.live[s].num_completion
            ids = tuple(tokens[place, :length].tolist())
            found.append(Completion(ids, logprobs[place, :length].copy(), reasons[row.rollout_id], row.features_at))
        return found

    def compact(self, sources: list[int], holes: list[int], num_live: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Move row ``sources[i]`` to ``holes[i]``; ``num_live`` rows are left. Returns both as tensors."""
        sources_C, holes_C = (self.token_S.new_tensor(rows) for rows in (sources, holes))
        if holes:
            for name in TENSORS:
                tensor = getattr(self, name)
                tensor[holes_C] = tensor[sources_C]
        for hole, source in zip(holes, sources, strict=True):
            self.live[hole] = self.live[source]
        del self.live[num_live:]
        return sources_C, holes_C

    def features(
        self, layout: FeatureLayout, rows: list[int], fed_C: torch.Tensor, hidden_SD: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features ``[C, F]`` of rows that were fed so many completion tokens, and their mean log-probabilities."""
        rows_C = torch.tensor(rows, device=hidden_SD.device)
        logprobs_CM = self.logprobs_SM[rows_C, : int(fed_C.max())].cpu().numpy()
        statistics_C3 = logprob_statistics(logprobs_CM, fed_C.cpu().numpy())
        last_CD = hidden_SD[rows_C].float().cpu().numpy()
        mean_CD = (self.hidden_sum_SD[rows_C] / fed_C[:, None]).cpu().numpy()
        return layout.assemble(last_CD, mean_CD, statistics_C3), statistics_C3[:, 2]

    def _draw(self, row: int) -> None:
        """The first numbers of a rollout's stream do not depend on how many are drawn."""
        uniforms = token_uniforms(self._seed, self.live[row].rollout_id, self.uniforms_SM.shape[1])
        self.uniforms_SM[row] = torch.from_numpy(uniforms).to(self.uniforms_SM.device)
