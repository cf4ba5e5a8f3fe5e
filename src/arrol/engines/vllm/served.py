"""A vLLM server as an ``LLM``: one HTTP request per rollout, RPC through the server's development mode. No vLLM here.

Start the server with ``VLLM_SERVER_DEV_MODE=1`` and our two classes::

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --scheduler-cls arrol.engines.vllm.PruningScheduler \\
        --worker-cls arrol.engines.vllm.PruningWorker --logprobs-mode processed_logprobs
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from arrol.errors import ConfigError

TIMEOUT_S = 3600.0
"""For one rollout."""
OUR_CLASSES = "--scheduler-cls arrol.engines.vllm.PruningScheduler --worker-cls arrol.engines.vllm.PruningWorker"


class TokenLogprob(NamedTuple):
    logprob: float


class ServedOutput(NamedTuple):
    """The part of vLLM's CompletionOutput that we read."""

    token_ids: tuple[int, ...]
    logprobs: list[dict[int, TokenLogprob]]
    finish_reason: str | None
    stop_reason: object


class ServedAnswer(NamedTuple):
    outputs: list[ServedOutput]


class ServedLlm:
    """``generate`` and ``collective_rpc`` over HTTP. All requests of a call run at once."""

    def __init__(self, url: str, *, model: str | None = None, connections: int = 256) -> None:
        """ConfigError without an answer at ``url``; ``model`` defaults to the first that the server lists."""
        self._url, self._connections = url.rstrip("/"), connections
        cards = self._ask("/v1/models")["data"]
        self.model = model or cards[0]["id"]
        self.adapters = [card["id"] for card in cards if card.get("parent")]
        """LoRA adapters that the server had at the start, each a model of its own name."""

    @staticmethod
    def settings(fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of vLLM's SamplingParams as JSON fields of ``/v1/completions``."""
        return {
            "vllm_xargs" if name == "extra_args" else name: value for name, value in fields.items() if value is not None
        }

    def generate(
        self, prompts: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]], *, use_tqdm: bool = False
    ) -> list[ServedAnswer]:
        """One answer per prompt, in order."""
        with ThreadPoolExecutor(min(self._connections, max(1, len(prompts)))) as pool:
            return list(pool.map(self._complete, prompts, settings))

    def collective_rpc(self, method: str, *, args: Sequence[str] = ()) -> list[Any]:
        """One answer per worker; ConfigError when the server runs without development mode or our worker."""
        answer = self._ask("/collective_rpc", {"method": method, "args": list(args)})
        return answer.get("results", []) if answer else []

    def _complete(self, prompt: Mapping[str, Any], settings: Mapping[str, Any]) -> ServedAnswer:
        body = {"model": self.model, "prompt": prompt["prompt_token_ids"], "return_token_ids": True, **settings}
        choice = self._ask("/v1/completions", body)["choices"][0]
        tokens = tuple(choice["token_ids"])
        values = (choice.get("logprobs") or {}).get("token_logprobs") or []
        logprobs = [{token: TokenLogprob(value)} for token, value in zip(tokens, values, strict=True)]
        return ServedAnswer([ServedOutput(tokens, logprobs, choice["finish_reason"], choice.get("stop_reason"))])

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if path == "/collective_rpc":
                remedy = f"start it with VLLM_SERVER_DEV_MODE=1 and {OUR_CLASSES}, or set vllm_two_phase"
            else:
                remedy = " ".join(error.read().decode(errors="replace").split())[:300]
                remedy += "; the server's log says more" if error.code == 500 else ""
            raise ConfigError(f"vllm server = {self._url!r}: {path} answers {error.code}: {remedy}") from None
        except OSError as error:
            raise ConfigError(f"vllm server = {self._url!r}: does not answer ({error}); start it first") from None
        return json.loads(text) if text.strip() else None
