"""Check of a request's arguments before vLLM admits it: a wrong one is HTTP 400, or ``VLLMValidationError``.

``--logits-processors arrol.engines.vllm:RequestCheck``, or the same name in the list ``logits_processors`` of ``LLM``.
vLLM calls ``validate_params`` of each logits processor in the process that takes requests. Ours changes no logits. What
depends on other requests or on the head is refused later, by the scheduler.

The class is named on the command line and is no entry point, because vLLM would load an entry point at every start in
the environment. It serves both model runners, whose interfaces differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import LogitsProcessor

from arrol.engines.vllm.request import require_admissible

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondRunnerProcessor
except ImportError:  # a release whose second runner has no interface of its own

    class SecondRunnerProcessor:  # type: ignore[no-redef]
        """Nothing to inherit."""


if TYPE_CHECKING:
    from torch import Tensor
    from vllm import SamplingParams


class RequestCheck(SecondRunnerProcessor, LogitsProcessor):
    """See the module."""

    def __init__(self, *settings: Any) -> None:
        """``settings`` differ between the runners; none is needed."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """ConfigError, which vLLM answers with 400, for arguments that no group could have."""
        require_admissible(sampling_params.extra_args, sampling_params.n)

    def add_request(self, *request: Any) -> bool:
        """The second runner asks whether logits of the request change."""
        return False

    def update_state(self, *change: Any) -> None:
        """The first runner tells which requests joined the batch."""

    def is_argmax_invariant(self) -> bool:
        """The first runner skips such processors where all requests are greedy."""
        return True

    def apply(self, logits: Tensor, *context: Any) -> Tensor:
        return logits
