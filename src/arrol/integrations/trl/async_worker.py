"""The rollout worker of TRL's ``AsyncGRPOTrainer``, with pruning and every allocation rule. Needs TRL 1.16.

    worker = PrunedRolloutWorker(model, args, dataset, reward_funcs, tokenizer, rule="neyman", allocation="dapo")
    trainer = AsyncGRPOTrainer(model, args=args, train_dataset=dataset, rollout_worker=worker, callbacks=[worker])

TRL owns the loss and the weights; the worker owns prompts, groups, rewards and advantages, and puts samples into TRL's
queue. It runs in a thread of the trainer's process: generation is HTTP to ``vllm serve``.
``docs/trl-async.md`` says what differs from TRL's own worker.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from transformers import AutoConfig, GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from arrol.algorithms.allocation.allocator import Allocator
from arrol.engines.embedded.support import max_positions
from arrol.engines.vllm.phases import require_only_logprobs
from arrol.errors import ConfigError, DataError
from arrol.integrations.diagnosis import HostDiagnosis
from arrol.integrations.memory import HostMemory, read_head, write_head
from arrol.integrations.trl.advice import ADVICE
from arrol.integrations.trl.async_batches import BatchMaker, BatchParts, NumberedRows, PromptSource
from arrol.integrations.trl.async_engines import EngineFactory, connect
from arrol.integrations.trl.async_options import parse_options, require_trl, samples_per_step, shape_of
from arrol.integrations.trl.async_queue import SampleQueue, Snapshots
from arrol.integrations.trl.async_rewards import RewardCalls, Row
from arrol.integrations.trl.batch import RewardFunction, success_place
from arrol.integrations.trl.records import worker_records
from arrol.integrations.warmup import with_probes
from arrol.records.pieces import TokenTexts
from arrol.types import SamplingParams, State

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl.experimental.async_grpo import AsyncGRPOConfig

logger = logging.getLogger(__name__)
STOP_TIMEOUT_S = 15.0
"""TRL's own wait for its worker."""
EMPTY_BATCHES = 100
"""Batches in a row without a sample, after which training ends: the trainer would wait for ever."""


class _Stopped(Exception):
    """TRL has asked the worker to stop."""


class PrunedRolloutWorker(TrainerCallback):
    """TRL's ``RolloutWorkerProtocol``, and the callback that saves and resumes it: give it to the trainer as both."""

    def __init__(
        self,
        model: str,
        args: AsyncGRPOConfig,
        train_dataset: NumberedRows,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        processing_class: PreTrainedTokenizerBase,
        *,
        engine: EngineFactory | None = None,
        **options: object,
    ) -> None:
        """``model``: name or folder, as given to the trainer; ``engine``: instead of ``args.vllm_server_base_url``.

        ``options``: fields of ``WorkerOptions``, of ``HostConfig`` and of the rule. ConfigError names the first that
        is wrong.
        """
        require_trl()
        self._config, self._options = parse_options(args, options)
        if self._options.two_phase:
            require_only_logprobs(self._config.quality.features)
        if not hasattr(train_dataset, "__len__") or not hasattr(train_dataset, "__getitem__") or not len(train_dataset):
            raise ConfigError(
                f"train_dataset = {type(train_dataset).__name__}: the worker asks for rows by number, again after a "
                "resume; give a Dataset with rows, not a stream"
            )
        self._model, self._args, self._rows, self._tokenizer = model, args, train_dataset, processing_class
        functions = list(reward_funcs) if isinstance(reward_funcs, Sequence) else [reward_funcs]
        self._rewards = RewardCalls(functions, processing_class)
        self._label = success_place(self._rewards.names, self._options.success_reward)
        self._engine = engine
        self.rollout_buffer = SampleQueue()
        """TRL reads samples here."""
        self.metrics_queue: queue.Queue[dict[str, float]] = queue.Queue()
        """TRL reads metrics here."""
        self._snapshots, self._diagnosis = Snapshots(), HostDiagnosis(ADVICE)
        self._records = worker_records(
            self._config, args, cast(TokenTexts, processing_class), model, self._rewards.names
        )
        self._saved: State | None = None
        self._version = 0
        self._heard = time.monotonic()
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_callback = False

    def start(self) -> None:
        """Begin to write rollouts; TRL calls it after its first transfer of weights. A worker starts once."""
        assert self._thread is None, "a worker belongs to one call of train()"
        if not self._is_callback:
            warnings.warn(
                "callbacks: the worker is not among the trainer's, so no checkpoint holds its head; "
                "pass callbacks=[worker]",
                stacklevel=2,
            )
        maker = self.batch_maker()
        self._records.begin(maker.step)
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(maker,), name="arrol-rollouts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the rollouts that are being written."""
        self._stopping.set()
        self._rewards.close()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
        self._records.end("failed" if self._failure else "stopped", str(self._failure or ""))

    def update_model_version(self, model_version: int) -> None:
        """The weights that the engine has from now on."""
        self._version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raise what ended the worker; RuntimeError after ``stale_after_s`` beyond a request's limit without news."""
        if self._failure is not None:
            raise self._failure
        silent_s = time.monotonic() - self._heard
        if silent_s > stale_after_s + self._args.request_timeout:
            raise RuntimeError(
                f"rollout worker: no rollout ended for {silent_s:.0f} s; see the engine's log, or raise "
                "heartbeat_stale_after_s"
            )

    def save(self, folder: Path) -> None:
        """State before the first batch that the trainer has not wholly trained on; nothing before the first batch."""
        args = self._args
        ahead = (args.token_budget or 0) * args.world_size
        samples = 0 if ahead > 0 else args.per_device_train_batch_size * args.world_size
        state = self._snapshots.before(self.rollout_buffer.surely_trained(samples=samples, tokens=ahead))
        if state is not None:
            self._records.save()
            write_head(folder, state)

    def load(self, folder: Path) -> bool:
        """Continue from there when training starts; False when the folder has no head."""
        self._saved = read_head(folder)
        return self._saved is not None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """A resumed run loads the checkpoint of its step, unless :meth:`load` was called."""
        self._is_callback = True
        folder = _checkpoint(args, state)
        if state.global_step and self._saved is None and not self.load(folder):
            warnings.warn(
                f"{folder.name} has no head: a new one starts, at the first row of the data; call worker.load(folder) "
                "for a checkpoint elsewhere",
                stacklevel=2,
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if state.is_world_process_zero:
            self.save(_checkpoint(args, state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        self._records.log(logs or {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Log why nothing was learned, where that is so."""
        self._records.end("finished" if state.global_step >= state.max_steps else "stopped")
        for line in self._diagnosis.at_end() if state.is_world_process_zero else ():
            logger.warning("arrol: %s", line)

    def batch_maker(self) -> BatchMaker:
        """What the thread runs: engine, head and allocation, as loaded; also for a look at batches without training."""
        args, config = (
            self._args,
            AutoConfig.from_pretrained(self._model, trust_remote_code=self._args.trust_remote_code),
        )
        text = config.get_text_config()
        if self._saved is not None and not self._config.pruning.probe_tokens:
            self._config = with_probes(self._config, cast(list[int], self._saved["probe_tokens"]))
        memory = HostMemory(self._config, int(text.hidden_size), seed=args.seed)
        params = SamplingParams(
            args.max_completion_length,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=max(args.top_k, 0),
            stop_token_ids=self._stop_ids(),
        )
        limit = max_positions(text)
        longest = None if limit is None else limit - args.max_completion_length
        allocator = Allocator(
            self._config.allocation,
            shape_of(args, self._options),
            seed=args.seed,
            max_completion_tokens=args.max_completion_length,
            history=memory.history,
            correction=self._config.correction,
        )
        maker = BatchMaker(
            BatchParts(
                self._config,
                memory,
                connect(args, self._config, memory, params, engine=self._engine, two_phase=self._options.two_phase),
                PromptSource(self._rows, self._tokenized, longest, args.max_completion_length),
                self._rewards,
                allocator,
                args.seed,
                self._label,
                self._records,
                self._diagnosis,
            )
        )
        if self._saved is not None:
            maker.load(self._saved)
        return maker

    def _stop_ids(self) -> tuple[int, ...]:
        """As TRL: the tokenizer's and every one that the model declares."""
        try:
            declared = GenerationConfig.from_pretrained(self._model).eos_token_id
        except OSError:
            declared = None
        ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
        return tuple(dict.fromkeys([self._tokenizer.eos_token_id, *ids]))

    def _tokenized(self, row: Row) -> list[int]:
        """Prompt of a row: text as it is, a chat by the tokenizer's template."""
        prompt, tokenizer = row["prompt"], self._tokenizer
        if isinstance(prompt, str):
            return cast(list[int], tokenizer(prompt)["input_ids"])
        options = cast(dict[str, Any], self._args.chat_template_kwargs or {})
        chat = cast(list[dict[str, str]], prompt)
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False, **options)
        return cast(list[int], ids)

    def _run(self, maker: BatchMaker) -> None:
        empty = 0
        self._snapshots.add(0, maker.save())
        try:
            while self._wait_for_demand():
                maker = self._with_probe(maker)
                batch = maker.make(lambda: self._version, self._alive)
                self.metrics_queue.put({f"arrol/{key}": v for key, v in batch.metrics.items() if not np.isnan(v)})
                empty = 0 if batch.samples else empty + 1
                if empty == EMPTY_BATCHES:
                    raise DataError(
                        f"allocation.rule = {self._config.allocation.rule!r}: {empty} batches in a row had nothing to "
                        "train on, such as groups that are all right or all wrong; use other prompts, another reward "
                        "or rule = 'uniform'"
                    )
                self._snapshots.add(self.rollout_buffer.num_put + len(batch.samples), maker.save())
                self.rollout_buffer.put_all(batch.samples)
        except BaseException as error:  # TRL asks for it by check_health
            self._failure = None if self._stopping.is_set() else error

    def _with_probe(self, maker: BatchMaker) -> BatchMaker:
        """The maker; built again, as by a resumed run, when the lengths have chosen the probe."""
        found = maker.chosen_probe()
        if found is None:
            return maker
        logger.warning("arrol: %s", found)
        self._saved, self._config = maker.save(), with_probes(self._config, [found.tokens])
        return self.batch_maker()

    def _alive(self) -> None:
        self._heard = time.monotonic()
        if self._stopping.is_set():
            raise _Stopped

    def _wait_for_demand(self) -> bool:
        """True when the trainer waits for a sample, or will have read a whole batch more before it is stale.

        A step reads ``samples_per_step``, and TRL's loader is a microbatch ahead of it: hence one version less. Under
        ``max_staleness`` 1 a batch begins when the trainer waits, so that no clock says which weights write it.
        """
        args = self._args
        room = (args.max_staleness - 1) * samples_per_step(args) - shape_of(args, self._options).num_rollouts
        while not self._stopping.is_set():
            self._heard = time.monotonic()
            if self.rollout_buffer.is_awaited.wait(0.05) or self.rollout_buffer.qsize() <= room:
                return True
        return False


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
