"""Siblings share their prompt: a microbatch as one flat row of tokens, in which each prompt stands once.

Everything but attention acts on tokens, so a prompt's are computed once and not once per rollout, and padding is not
computed at all. For attention, keys and values are copied out to rows ``[R, T]`` as if nothing were shared, and what
the tokens see is read back. The last token of a rollout predicts nothing and is left out.

Worked example: rollouts (5, 6 | 7, 2) and (5, 6 | 9) of the prompt (5, 6)::

    ids_N        [5, 6, 7]          positions_N  [0, 1, 2]       source_N  [0, 1, 2]
    place_RT     [[0, 1, 2],        where the token of a row and column is; 0 where there is none
                  [0, 1, 0]]
    front_M      [1, 2, 1]          in front of each selected token; whose ids are target_M = [7, 2, 9]

Legend: ``N`` flat tokens, ``R`` rollouts, ``T`` columns, ``M`` selected tokens, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import embedding, scaled_dot_product_attention

if TYPE_CHECKING:
    from arrol.engines.embedded.decoder import Attend, FlatDecoder


@dataclass(frozen=True)
class SharedTokens:
    """See the module."""

    ids_N: torch.Tensor
    positions_N: torch.Tensor
    source_N: torch.Tensor
    """Row times ``T`` plus column of the first rollout that holds the token."""
    place_RT: torch.Tensor
    front_M: torch.Tensor
    target_M: torch.Tensor

    def hidden(self, decoder: FlatDecoder, *, recompute: bool = False) -> torch.Tensor:
        """Hidden states ``[M, D]`` in front of the selected tokens; ``recompute`` as of the decoder."""
        hidden_ND = decoder(self.ids_N, self.positions_N, self._attention(decoder.scaling), recompute=recompute)
        return embedding(self.front_M, hidden_ND)

    def _attention(self, scaling: float) -> Attend:
        rows, columns = self.place_RT.shape

        def spread(values: torch.Tensor) -> torch.Tensor:
            # an embedding is a gather whose gradient is one pass over memory; index_select's is one call per row
            wide = embedding(self.place_RT, values.reshape(len(values), -1))
            return wide.view(rows, columns, -1, values.shape[-1]).transpose(1, 2)

        def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            seen = scaled_dot_product_attention(
                spread(query),
                spread(key),
                spread(value),
                is_causal=True,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            return embedding(self.source_N, seen.transpose(1, 2).reshape(rows * columns, -1)).view(query.shape)

        return attend


def shared_tokens(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> SharedTokens:
    """One prompt and one completion per rollout; equal prompts are the same tokens."""
    fed = [len(p) + max(len(c) - 1, 0) for p, c in zip(prompts, completions, strict=True)]
    columns = max(fed)
    place_RT = np.zeros((len(fed), columns), np.int64)
    ids: list[int] = []
    positions: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    fronts: list[np.ndarray] = []
    first: dict[tuple[int, ...], int] = {}

    def append(row: int, start: int, tokens: Sequence[int]) -> None:
        span = np.arange(start, start + len(tokens))
        place_RT[row, span] = np.arange(len(ids), len(ids) + len(tokens))
        ids.extend(tokens)
        positions.append(span)
        sources.append(row * columns + span)

    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start = len(prompt)
        if tuple(prompt) in first:
            place_RT[row, :start] = first[tuple(prompt)] + np.arange(start)
        else:
            first[tuple(prompt)] = len(ids)
            append(row, 0, prompt)
        append(row, start, completion[:-1])
        fronts.append(place_RT[row, start - 1 : start - 1 + len(completion)])
    return SharedTokens(
        ids_N=torch.tensor(ids, device=device),
        positions_N=torch.from_numpy(np.concatenate(positions)).to(device),
        source_N=torch.from_numpy(np.concatenate(sources)).to(device),
        place_RT=torch.from_numpy(place_RT).to(device),
        front_M=torch.from_numpy(np.concatenate(fronts)).to(device),
        target_M=torch.tensor([token for completion in completions for token in completion], device=device),
    )
