"""One call of ``generate``: the requests so far, the completions so far, and the new requests that ``more`` makes.

Every engine here holds one. It reports completions as rollouts end, and asks for new requests when rows are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arrol.errors import DataError
from arrol.protocols import Controller, More
from arrol.types import Completion, FinishReason, GroupRequest, RolloutId


class Asked:
    """Requests in the order in which they came; each is announced to the controller as it comes."""

    def __init__(
        self, requests: Sequence[GroupRequest], *, controller: Controller | None = None, more: More | None = None
    ) -> None:
        self._controller, self._more = controller, more
        self.requests: list[GroupRequest] = []
        self._known: set[RolloutId] = set()
        self.done: dict[RolloutId, Completion] = {}
        """Completions of the rollouts that have ended."""
        self._news: list[tuple[RolloutId, Completion]] = []
        """Rollouts that have ended since the last call of ``more``."""
        self._take(requests)

    def end(self, rollout_id: RolloutId, completion: Completion) -> None:
        """A rollout has ended, by itself or not."""
        self.done[rollout_id] = completion
        if self._more is not None:
            self._news.append((rollout_id, completion))

    def ask(self) -> list[GroupRequest]:
        """New requests from ``more``, given the rollouts that ended since the last call; none when none has ended."""
        if self._more is None or not self._news:
            return []
        news, self._news = sorted(self._news, key=lambda pair: pair[0]), []
        return self._take(self._more(news))

    def completions(self) -> list[list[Completion]]:
        """One list per request, in order; all rollouts have ended."""
        return [[self.done[rollout_id] for rollout_id in request.rollout_ids] for request in self.requests]

    def _take(self, requests: Sequence[GroupRequest]) -> list[GroupRequest]:
        for request in requests:
            twice = self._known.intersection(request.rollout_ids)
            if twice:
                raise DataError(
                    f"first = {request.first}: rollout {min(twice).index} of group {request.group} was requested "
                    "before; let a later wave begin where its group ended"
                )
            self._known.update(request.rollout_ids)
            if self._controller is not None:
                self._controller.open(
                    request.step, request.group, request.size, request.success_rate, prune=request.prune
                )
        self.requests += requests
        return list(requests)


def report_ends(
    controller: Controller | None, ended: Mapping[RolloutId, FinishReason]
) -> dict[RolloutId, FinishReason]:
    """Tell the controller which rollouts ended by themselves or failed; returns the siblings to stop as a result."""
    if controller is None or not ended:
        return {}
    failed = [rollout_id for rollout_id, reason in ended.items() if reason is FinishReason.ERROR]
    finished = [rollout_id for rollout_id, reason in ended.items() if reason.survived]
    stops = [*controller.finished(finished), *(controller.lost(failed) if failed else [])]
    return dict.fromkeys(stops, FinishReason.PRUNED)
