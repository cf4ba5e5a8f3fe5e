"""Tests only: a rollout server on Hugging Face, and the adapter that sends it new weights.

Sampling repeats, whatever is stopped: token number t of the k-th request for a prompt, under one version of the
weights, is drawn with a uniform number keyed by (prompt, k, version, t). verl gives every call an id of its own, so a
second call is recognised by its prefix: the server remembers what it wrote. ``VERLCPU_SEED`` changes all draws,
``VERLCPU_FAIL=K`` makes the K-th request raise.
"""

import asyncio
import os
import zlib
from collections import Counter, defaultdict

import numpy as np
import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput


def server_name(rank):
    return f"verlcpu_server_{rank}"


class Adapter(BaseRollout):
    """In the worker: weights go to the server as a state dict."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **kwargs):
        if hasattr(weights, "__aiter__"):
            weights = [pair async for pair in weights]
        state = {
            name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu().clone()
            for name, tensor in weights
        }
        await ray.get_actor(server_name(os.environ["RANK"])).load.remote(state, global_steps)


class Server:
    """One model that decodes one request at a time, a few tokens per turn of the event loop."""

    def __init__(self, path, longest):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        eos = self.model.generation_config.eos_token_id
        self.stop_ids = set(eos if isinstance(eos, list) else [eos]) - {None}
        self.version, self.asked, self.written = 0, Counter(), defaultdict(list)
        self.seed, self.fail = (int(os.environ.get(name, 0)) for name in ("VERLCPU_SEED", "VERLCPU_FAIL"))
        self.requests, self.longest = 0, longest

    async def load(self, state, version):
        self.model.load_state_dict(state, strict=False)
        self.version = version
        self.asked.clear()
        self.written.clear()

    async def generate(self, prompt_ids, sampling_params, request_id, **kwargs):
        self.requests += 1
        if self.requests == self.fail:
            raise RuntimeError("VERLCPU_FAIL: this request was to fail")
        prompt = tuple(prompt_ids)
        continued = self.written[prompt]  # siblings that wrote the same so far may change places
        key, begun = continued.pop(0) if continued else (self._stream(prompt), 0)
        tokens, logprobs = await self._decode(prompt, sampling_params, key, begun)
        self.written[prompt + tuple(tokens)].append((key, begun + len(tokens)))
        fields = {"global_steps": self.version}
        return TokenOutput(token_ids=tokens, log_probs=logprobs, stop_reason="completed", extra_fields=fields)

    def _stream(self, prompt):
        self.asked[prompt] += 1
        return [self.seed, zlib.crc32(np.asarray(prompt, np.int64).tobytes()), self.asked[prompt], self.version or 0]

    @torch.inference_mode()
    async def _decode(self, prompt, sampling_params, key, begun):
        fed, cache, tokens, logprobs = torch.tensor([prompt]), None, [], []
        temperature = sampling_params.get("temperature", 1.0)
        while len(tokens) < sampling_params.get("max_tokens", self.longest):
            output = self.model(input_ids=fed, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            row = (output.logits[0, -1].double() / (temperature or 1.0)).log_softmax(-1)
            uniform = np.random.default_rng([*key, begun + len(tokens)]).random()
            drawn = int(torch.searchsorted(row.exp().cumsum(0), uniform)) if temperature else int(row.argmax())
            drawn = min(drawn, len(row) - 1)
            tokens.append(drawn)
            logprobs.append(float(row[drawn]))
            if drawn in self.stop_ids:
                break
            fed = torch.tensor([[drawn]])
            if len(tokens) % 8 == 0:
                await asyncio.sleep(0)
        return tokens, logprobs


async def _nothing(self, *args, **kwargs):
    pass


for _name in (
    "abort_all_requests", "clear_kv_cache", "ready", "release_kv_cache", "resume_generation", "resume_kv_cache",
    "sleep", "start_profile", "stop_profile", "wake_up",
):  # fmt: skip
    setattr(Server, _name, _nothing)


class Replica(RolloutReplica):
    """One server per rank."""

    async def launch_servers(self):
        options = {"name": server_name(self.replica_rank), "max_concurrency": 1000, "num_cpus": 0.1}
        server = ray.remote(Server).options(**options).remote(self.model_config.path, self.config.response_length)
        await server.ready.remote()
        self.servers, self._server_handle = [server], server
        self._server_address = f"127.0.0.1:{10000 + self.replica_rank}"
