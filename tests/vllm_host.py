"""vLLM made small: a random model, engines that end when they are left, and a scheduler without engine or model.

``tests/with_vllm`` runs real engines, ``tests/unit/engines/vllm`` the scheduler alone. Nothing here loads vLLM before
it is called, so the main suite, which has no vLLM, may import it.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib.util
import os
import subprocess
import types
from collections import Counter, deque

import numpy as np
import pytest
import torch

from arrol.configs.method import QualityConfig
from arrol.engines.vllm.groups import ProbeScore
from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout

TINY = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True, "disable_log_stats": False}
"""Arguments of every engine here."""
ARROL = {"scheduler_cls": "arrol.engines.vllm.PruningScheduler", "worker_cls": "arrol.engines.vllm.PruningWorker"}
CONFIDENCE = {"scheduler_cls": "arrol.engines.vllm.ConfidenceScheduler"}
HIDDEN, BYTES, EOS = 128, 256, 257
FEATURES = ("last_hidden", "mean_hidden", "logprobs")
DRAFTS = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}


def has_vllm():
    """False for the folder of this name, which is a package without code to Python."""
    spec = importlib.util.find_spec("vllm")
    return spec is not None and spec.origin is not None


def is_second_runner():
    """Whether this process is to run vLLM's second model runner with asynchronous scheduling."""
    return os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"


def allow_second_runner():
    """It wants a GPU: Triton's interpreter stands in for one, and the CPU platform is to leave async scheduling on."""
    import triton.backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    triton.backends.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def keep_async(cls, config):
        wanted = config.scheduler_config.async_scheduling
        original(cls, config)
        config.scheduler_config.async_scheduling = wanted

    CpuPlatform.check_and_update_config = classmethod(keep_async)


def save_model(folder):
    """A random Qwen3 of two layers with heads that the CPU kernel knows, and one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>", "<eos>"]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=264, hidden_size=HIDDEN, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, initializer_range=0.1,
        tie_word_embeddings=False, eos_token_id=EOS, pad_token_id=BYTES,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def snapshot_of(*probe_tokens, features=FEATURES, seed=0, version=0, hidden=HIDDEN):
    """A head that tells rollouts apart; its calibration still says one half for all."""
    layout = FeatureLayout(features, hidden)
    estimator = QualityEstimator(QualityConfig(), layout, probe_tokens, seed=seed)
    estimator.version = version
    for head in estimator._heads:
        torch.nn.init.normal_(head.second.weight, generator=torch.Generator().manual_seed(seed))
    return estimator.snapshot()


def params(total, *, n=1, seed=None, logprobs=0, **pruning):
    """Sampling to exactly ``total`` tokens; ``pruning`` are arguments of ``pruning_args``."""
    from vllm import SamplingParams

    return SamplingParams(
        n=n, temperature=1.0, max_tokens=total, ignore_eos=True, logprobs=logprobs, seed=seed,
        extra_args=pruning_args(**{"size": n, **pruning}) if pruning else None,
    )  # fmt: skip


def generate(llm, prompts, all_params):
    """``llm.generate`` for lists of token ids."""
    return llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], all_params, use_tqdm=False)


@contextlib.contextmanager
def engine(model, *, tiny=True, **arguments):
    """A ``vllm.LLM`` that leaves nothing behind; ``tiny=False``: at vLLM's defaults."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm = LLM(model, **{**(TINY if tiny else {}), **arguments})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


@contextlib.contextmanager
def true_temperatures():
    """vLLM 0.32's CPU code leaves each draft's temperature as the memory was: it writes into a copy of another dtype.

    Sure drafts are then refused, and tokens sampled that are not allowed, with our scheduler and without it.
    """
    from vllm.v1.sample import rejection_sampler

    def expand(values, cumulative, total, replace_from=0, replace_to=0):
        counts = torch.diff(cumulative, prepend=cumulative.new_zeros(1))
        return torch.where(values == replace_from, replace_to, values).repeat_interleave(counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejection_sampler, "expand_batch_to_tokens", expand)
        yield


def scheduler_of(llm):
    """Of an engine in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def worker_of(llm):
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker


def step_without_requests(llm):
    """The step that an engine in a process of its own makes by itself, to tell the worker which requests ended."""
    core = llm.llm_engine.engine_core.engine_core
    assert core.scheduler.has_requests()
    core.step_fn()
    assert not core.scheduler.has_requests()


def preemptions(llm):
    return sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")


def features_of(model, prompt, completion, length):
    """float32 ``[F]``: what Hugging Face says the head is to read after ``length`` tokens."""
    tokens, first = torch.tensor([[*prompt, *completion[:length]]]), len(prompt)
    with torch.no_grad():
        hidden_TD = model.model(tokens).last_hidden_state[0]
        logprobs_TV = model.lm_head(hidden_TD).log_softmax(-1)
    sampled_T = logprobs_TV[first - 1 : -1].gather(1, tokens[0, first:, None])[:, 0]
    statistics = [sampled_T.sum(), sampled_T.min(), sampled_T.mean()]
    return np.concatenate([hidden_TD[-1], hidden_TD[first:].mean(0), torch.stack(statistics)])


def taken_features(llm):
    """Rollout (step, group, index) and probe length -> features, as the worker gave them."""
    answers = llm.collective_rpc("arrol_take_features")
    (answer,) = [answer for answer in answers if answer["index"]] or answers[:1]
    rows = np.frombuffer(base64.b64decode(answer["features"]), np.float32).reshape(len(answer["index"]), answer["size"])
    return {(tuple(key[:3]), key[3]): row for key, row in zip(answer["index"], rows, strict=True)}


def is_pruned(completion):
    """The report of a completion that was stopped; it says so in both of its reasons or in neither."""
    report = StopReport.parse(completion.stop_reason)
    assert report is None or report.keep or completion.finish_reason == "stop", completion
    return report is not None and not report.keep


def leftovers(scheduler):
    """What should be empty when every request has been answered."""
    return {
        "requests": len(scheduler.requests), "running": len(scheduler.running), "waiting": len(scheduler.waiting),
        "watched": len(scheduler.book), "groups": scheduler.book.num_groups, "notices": len(scheduler._notices),
    }  # fmt: skip


def engine_config(model, **arguments):
    """vLLM's own config object; the CPU platform switches asynchronous scheduling off, so tests set it again."""
    from vllm.engine.arg_utils import EngineArgs

    is_async = arguments.pop("is_async", True)
    config = EngineArgs(model, **{**TINY, "block_size": 32, **arguments}).create_engine_config()
    config.scheduler_config.async_scheduling = is_async
    return config


class SchedulerLoop:
    """The engine's loop around a scheduler: steps in flight, and a runner that makes up its tokens and scores.

    ``depth`` steps are in flight; scores come ``lead`` tokens early, as they may where drafts are verified.
    """

    def __init__(self, config, scheduler_class, *, blocks=256, depth=2, lead=0, snapshot=None, score=None, token=None):
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE

        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=32, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(32, sha256)
        self.scheduler = scheduler_class(config, cache, StructuredOutputManager(config), block_size=32)
        self.depth, self.lead, self.tables = depth, lead, None
        self.has_head = snapshot is not None or score is not None or ESTIMATOR_VARIABLE in os.environ
        self.score = score or (lambda request_id, length: 0.0)
        self.token = token or (lambda request_id, index: 1)
        if snapshot is not None:
            self.tables = snapshot.tables()
        self.inflight = deque()
        self.requests, self.answers, self.times_scored = {}, {}, Counter()
        """Request id -> vLLM's request, its last output, and how often each probe of it was scored."""
        self.wasted = 0
        """Tokens under way for requests that have been answered."""
        self.free = self.num_free

    @property
    def num_free(self):
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    def add(self, request_id, total, *, prompt=10, client=0, logprobs=0, pruning=None, **changes):
        """``pruning`` are finished arguments; other keywords go to SamplingParams."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        sampling = SamplingParams(
            max_tokens=total, ignore_eos=True, logprobs=logprobs, extra_args=pruning, skip_clone=True, **changes
        )
        prompt_ids = list(range(prompt))
        request = Request(request_id, prompt_ids, sampling, None, client_index=client, block_hasher=self.hasher)
        self.requests[request_id] = request
        self.scheduler.add_request(request)

    def add_group(self, name, size, total, **pruning):
        """``size`` requests named ``name.index``; ``total`` is a number for all, or one for each."""
        totals = total if isinstance(total, (list, tuple)) else [total] * size
        arguments = pruning_args(group=name, **{"size": size, **pruning})
        for index, one in enumerate(totals):
            self.add(f"{name}.{index}", one, pruning=arguments)

    def abort(self, *request_ids):
        """As a client does."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(request_ids, RequestStatus.FINISHED_ABORTED)
        for request_id in request_ids:
            self.answers.setdefault(request_id, "aborted")

    def schedule(self):
        """Put a step in flight."""
        plan = self.scheduler.schedule()
        sampling = [i for i in plan.num_scheduled_tokens if not self.scheduler.requests[i].is_prefill_chunk]
        self.inflight.append((plan, set(sampling)))

    def step(self):
        """Fill the flight, then land its first step."""
        while len(self.inflight) < self.depth and (not self.inflight or self.scheduler.has_unfinished_requests()):
            self.schedule()
        plan, sampling = self.inflight.popleft()
        for client, answer in self.scheduler.update_from_output(plan, self._landed(plan, sampling)).items():
            for output in answer.outputs:
                assert client == self.requests[output.request_id].client_index, output
                if output.finish_reason is not None:
                    assert output.request_id not in self.answers, f"{output.request_id} was answered twice"
                    self.answers[output.request_id] = output
                    self.wasted += sum(p.num_scheduled_tokens.get(output.request_id, 0) for p, _ in self.inflight)

    def run(self):
        """Until all requests are answered."""
        while self.inflight or self.scheduler.has_requests() or self.scheduler._notices:
            self.step()
        return self

    def tokens(self, request_id):
        return self.requests[request_id].num_output_tokens

    def pruned(self):
        """Requests that were stopped, in order."""
        return sorted(
            i for i, output in self.answers.items() if output != "aborted" and is_pruned_output(output.stop_reason)
        )

    def _landed(self, plan, sampling):
        """What model and worker would have answered."""
        from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

        from arrol.engines.vllm.scheduler import WatchingPlan
        from arrol.engines.vllm.worker import StepScores

        ids = list(plan.num_scheduled_tokens)
        output = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={request_id: row for row, request_id in enumerate(ids)},
            sampled_token_ids=[[self.token(i, self.tokens(i))] if i in sampling else [] for i in ids],
            logprobs=LogprobsLists(
                np.ones((len(ids), 1), int), np.array([[self.score(i, None)] for i in ids]), np.ones(len(ids), int)
            ) if ids else None,
        )  # fmt: skip
        watched = plan.arrol_watched if isinstance(plan, WatchingPlan) else {}
        scored = [
            ProbeScore(request_id, length, self.score(request_id, length))
            for request_id, watch in watched.items()
            for length in watch.probes
            if watch.start < length - self.lead <= watch.start + plan.num_scheduled_tokens[request_id]
        ]
        self.times_scored.update((one.request_id, one.probe_tokens) for one in scored)
        if (watched and self.has_head) or self.tables is not None:
            output.arrol_scores = StepScores(scored, self.tables)
            self.tables = None
        return output


def assert_nothing_is_left(loop):
    assert {what: count for what, count in leftovers(loop.scheduler).items() if count} == {}
    assert loop.scheduler.reset_prefix_cache()
    assert loop.num_free == loop.free


def is_pruned_output(stop_reason):
    report = StopReport.parse(stop_reason)
    return report is not None and not report.keep


@contextlib.contextmanager
def serving(command, environment, folder=None):
    """An OpenAI server, from its readiness to its end; ``folder`` is where it runs."""
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Application startup complete" in line:
                break
        else:
            pytest.fail("the server did not start\n" + "".join(said[-30:]))
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)
