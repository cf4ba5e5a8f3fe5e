"""TRL's GRPOTrainer with a pruned rollout function, survivors in rewards and loss, and the head in checkpoints.

With ``rule = "never"`` and no allocation rule only the record is added, and the run is TRL's bit for bit.
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import trl
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from arrol.configs.host import HostConfig
from arrol.configs.method import NeymanRule
from arrol.configs.shipped import found_model
from arrol.errors import CheckpointError, ConfigError
from arrol.integrations.trl.batch import success_place
from arrol.integrations.trl.config import GRPOConfig
from arrol.integrations.trl.engines import vllm_with_our_classes
from arrol.integrations.trl.host import require_model, require_sampling, require_whole_groups, require_whole_layers
from arrol.integrations.trl.observed import ObservedRollouts
from arrol.integrations.trl.records import batches_of
from arrol.integrations.trl.reward_model import with_reward_models
from arrol.integrations.trl.rewards import TAG_COLUMN, prune_rewards, reward_name
from arrol.integrations.trl.rollout import PrunedRollout
from arrol.integrations.trl.rules import changes_nothing, refuse_remote, replaces_advantages
from arrol.integrations.trl.signal import LOSS_TYPES


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's arguments; the options of pruning are fields of :class:`GRPOConfig`."""

    def __init__(self, model: Any, *positional: Any, **named: Any) -> None:
        given = inspect.signature(trl.GRPOTrainer.__init__).bind(self, model, *positional, **named).arguments
        given.pop("self")
        if isinstance(model, str):
            given["model"] = found_model(model)
        args = given.setdefault("args", None) or GRPOConfig(f"{_model_name(model)}-GRPO")
        if not isinstance(args, GRPOConfig):
            raise ConfigError(
                "args = trl.GRPOConfig: has no pruning fields; import GRPOConfig from arrol.integrations.trl"
            )
        given["args"] = args
        self.pruned: PrunedRollout | None = None
        """The rollout function; None where it would change nothing."""
        self.observed: ObservedRollouts | None = None
        """Takes the record of a run that is TRL's alone."""
        config = args.host_config()
        if not changes_nothing(config):
            self.pruned = _add_hooks(config, args, given)
        elif config.keep_records:
            self.observed = _observed(config, args, given)
        building = vllm_with_our_classes(args, two_phase=args.vllm_two_phase) if self.pruned else nullcontext()
        with warnings.catch_warnings(), building:
            warnings.filterwarnings("ignore", "You are using 'rollout_func'", UserWarning)
            super().__init__(**given)
        if self.observed is not None:
            self.observed.attach(self)
        if self.pruned is not None:
            _require_adapter_in_layers(self.model)
            require_whole_layers(self)
            require_whole_groups(self)
            require_model(self)

    def compute_loss(self, model: Any, inputs: Any, *positional: Any, **named: Any) -> Any:
        """TRL's loss over the survivors."""
        if self.pruned is not None:
            inputs = self.pruned.loss_inputs(inputs, self)
        elif self.observed is not None:
            self.observed.settle()
        return super().compute_loss(model, inputs, *positional, **named)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *positional: Any, **named: Any) -> Any:
        """TRL's training; a resumed run loads the head from the checkpoint, and warns when it has none.

        True takes the newest checkpoint that was saved to its end: where a run was killed during a save, transformers
        would take the rest of that one, and fail.
        """
        if self.pruned is not None and resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(Path(str(self.args.output_dir))) or True
        if self.pruned is not None and resume_from_checkpoint and not isinstance(resume_from_checkpoint, bool):
            folder = Path(resume_from_checkpoint)
            if not self.pruned.load(folder):
                warnings.warn(f"{folder.name} has no head: a new one starts", stacklevel=2)
        try:
            result = super().train(resume_from_checkpoint, *positional, **named)
        except BaseException as error:
            recorder = self.pruned or self.observed
            if recorder is not None:
                has_failed = isinstance(error, Exception)
                recorder.end("failed" if has_failed else "stopped", str(error) or type(error).__name__)
            raise
        records = self.observed.records if self.observed is not None else None
        records = self.pruned.recorder(self) if self.pruned is not None else records
        if records is not None and resume_from_checkpoint and self.state.global_step >= self.state.max_steps:
            records.end_resumed(batches_of(self, self.state.global_step))
        return result

    def save_model(self, output_dir: str | None = None, *positional: Any, **named: Any) -> None:
        """TRL's; of a checkpoint, which begins with it, the head comes first: ``trainer_state.json``, which
        transformers writes last, then says that the head is there too.
        """
        folder = Path(output_dir or "")
        if self.pruned is not None and folder.name == f"checkpoint-{self.state.global_step}":
            self.pruned.settle()
            if self.is_world_process_zero():
                self.pruned.save(folder)
        super().save_model(output_dir, *positional, **named)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's metrics and arrol's, to the trackers of ``report_to``."""
        if self.pruned is not None and self.model.training:
            logs.update(self.pruned.take_metrics())
        super().log(logs, start_time)


class RecordCallback(TrainerCallback):
    """Tells the record what TRL logs, and says at the end why nothing was learned."""

    def __init__(self, rollout: PrunedRollout) -> None:
        self._rollout = rollout

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._rollout.log(logs or {})

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._rollout.evaluated(metrics or {})

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._rollout.evaluated(None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._rollout.settle()
        self._rollout.end("finished" if state.global_step >= state.max_steps else "stopped")
        if state.is_world_process_zero:
            self._rollout.log_end()


class SaveHead(RecordCallback):
    """The same, and it saves the head into each checkpoint, behind TRL's files.

    For a trainer of your own: ``callbacks=[SaveHead(rollout)]``.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._rollout.settle()
        if state.is_world_process_zero:
            self._rollout.save(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def newest_whole(folder: Path) -> str | None:
    """The newest checkpoint of the folder that was saved to its end, None without any checkpoint; warns of newer ones.

    CheckpointError where none was saved to its end.
    """
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*") if path.is_dir()}
    numbered = {path: int(step) for path, step in steps.items() if step.isdecimal()}
    passed: list[str] = []
    for path in sorted(numbered, key=lambda path: numbered[path], reverse=True):
        if _is_whole(path):
            if passed:
                warnings.warn(
                    f"{', '.join(passed)}: not saved to the end ({TRAINER_STATE_NAME} is missing or damaged); going on "
                    f"from {path.name}",
                    stacklevel=3,
                )
            return str(path)
        passed.append(path.name)
    if passed:
        raise CheckpointError(
            f"output_dir = {folder.name!r}: {', '.join(passed)} {'was' if len(passed) == 1 else 'were'} not saved to "
            f"the end ({TRAINER_STATE_NAME} is missing or damaged); start again without resume_from_checkpoint"
        )
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        return isinstance(json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _observed(config: HostConfig, args: GRPOConfig, given: dict[str, Any]) -> ObservedRollouts | None:
    """Let the record see what TRL's reward functions see; None with a reward model."""
    functions = given.get("reward_funcs") or []
    functions = functions if isinstance(functions, list) else [functions]
    if not functions or any(
        isinstance(each, str) or hasattr(each, "forward") or not callable(each) for each in functions
    ):
        return None
    observed = ObservedRollouts(config, args.success_reward)
    given["reward_funcs"] = observed.wrapped(functions)
    given["callbacks"] = [*(given.get("callbacks") or []), observed]
    return observed


def _add_hooks(config: HostConfig, args: GRPOConfig, given: dict[str, Any]) -> PrunedRollout:
    """Check TRL's arguments and add rollout function, wrapped rewards and callback to them."""
    _require_supported(args, config, given)
    rollout = given.get("rollout_func")
    if rollout is None:
        rollout = PrunedRollout(
            config,
            success_reward=args.success_reward,
            cache_gib=args.cache_gib,
            two_phase=args.vllm_two_phase,
        )
    elif not isinstance(rollout, PrunedRollout):
        raise ConfigError(
            f"rollout_func = {rollout!r}: would replace the one that prunes; leave it out, or set rule = 'never'"
        )
    functions = given["reward_funcs"] if isinstance(given["reward_funcs"], list) else [given["reward_funcs"]]
    functions = with_reward_models(functions, given.get("reward_processing_classes"), args)
    given["reward_funcs"] = prune_rewards(functions)
    success_place([reward_name(function) for function in functions], rollout.success_reward)
    given["rollout_func"] = rollout
    given["callbacks"] = [*(given.get("callbacks") or []), RecordCallback(rollout)]
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_news)
    return rollout


def _require_supported(args: GRPOConfig, config: HostConfig, given: dict[str, Any]) -> None:
    """ConfigError for what TRL accepts and pruning would silently spoil."""
    if "unsloth" in sys.modules:
        raise ConfigError(
            "unsloth = imported: it replaces the parts of TRL that pruning uses, generation and loss; do not import "
            "it, or set rule = 'never'"
        )
    for name in ("tools", "environment_factory"):
        if given.get(name):
            raise ConfigError(f"{name}: TRL ignores env_mask there, so nothing can be stopped; set rule = 'never'")
    if args.loss_type not in LOSS_TYPES:
        raise ConfigError(f"loss_type = {args.loss_type!r}: its denominator is unknown here; use one of {LOSS_TYPES}")
    if args.use_liger_kernel:
        raise ConfigError("use_liger_kernel = True: never run with pruning; set it to False")
    for name in ("use_transformers_paged", "use_transformers_continuous_batching"):
        if getattr(args, name, False):  # each TRL has one of them at least
            raise ConfigError(
                f"{name} = True: ignored, since the embedded engine samples; set it to False, or rule = 'never'"
            )
    if replaces_advantages(config) and args.multi_objective_aggregation != "sum_then_normalize":
        raise ConfigError(
            f"multi_objective_aggregation = {args.multi_objective_aggregation!r}: uses TRL's own advantages; "
            "set correction = 'plain' and allocation = 'uniform', or 'sum_then_normalize'"
        )
    require_sampling(args, two_phase=args.vllm_two_phase)
    if args.use_vllm:
        _require_supported_vllm(args, config)
    if not given.get("reward_funcs"):
        raise ConfigError("reward_funcs: missing; the quality head learns from them")


def _require_adapter_in_layers(model: Any) -> None:
    """ConfigError for prompt tuning and similar adapters: they act outside the layers that the engines run."""
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        raise ConfigError(
            f"peft_config = {type(adapter).__name__}: rollouts would be sampled without the learned prompt; use LoRA, "
            "or rule = 'never'"
        )


def _require_supported_vllm(args: GRPOConfig, config: HostConfig) -> None:
    if not args.vllm_two_phase:
        refuse_remote(config, "vllm_two_phase = True")
    if args.vllm_mode != "colocate":
        return
    if args.vllm_enable_sleep_mode:
        raise ConfigError("vllm_enable_sleep_mode = True: TRL wakes vLLM only in its own generation; set it to False")
    if args.vllm_tensor_parallel_size > 1:
        raise ConfigError(
            f"vllm_tensor_parallel_size = {args.vllm_tensor_parallel_size}: in colocate mode every rank would decide "
            "alone; set it to 1, or vllm_mode = 'server'"
        )
    whole_batch = isinstance(config.pruning, NeymanRule) and config.pruning.scope == "batch"
    if whole_batch and args.world_size > 1 and not args.vllm_two_phase:
        raise ConfigError("scope = 'batch': each process has its own vLLM and sees no whole batch; use scope 'group'")


def _model_name(model: Any) -> str:
    name = model if isinstance(model, str) else model.config.name_or_path
    return name.split("/")[-1]


def _is_news(record: logging.LogRecord) -> bool:
    """False for TRL's warning about a row without any reward where the row was stopped."""
    message = record.getMessage()
    return not ("All reward functions returned None" in message and f"'{TAG_COLUMN}': <pruned>" in message)
