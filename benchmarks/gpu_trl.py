"""Part of ``gpu_check.py`` with TRL: ``GRPOTrainer`` with pruning and a vLLM in its own process, in bfloat16.

Five steps of a small random model with a large learning rate. vLLM must follow the learner (TRL sends the weights),
stop about half of the candidates at the probe, and the loss must be finite. A CPU's vLLM cannot take TRL's weights:
there they go through vLLM's own reload.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")

import torch
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM

from arrol.training.policy import character_tokenizer
from gpu_rows import Rows, device, gpu_share, run_parts, seconds

MISMATCH = 0.1
"""Mean difference of a token's log-probability between vLLM and TRL, in bfloat16."""


def colocated(rows: Rows, flags: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")  # TRL's and vLLM's, of themselves and of each other
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(Path(folder), flags)
        if device().type == "cpu":
            reload_weights(trainer, Path(folder) / "weights")
        try:
            taken, _ = seconds(trainer.train)
        finally:
            trainer.vllm_generation.llm.llm_engine.engine_core.shutdown()
    rows.number("training", "s", taken, steps=trainer.state.global_step)
    kept = history(trainer, "arrol/pruning/kept_frac")
    rows.check("candidates kept", "share", kept[-1], least=0.2, most=0.8, steps=kept)
    rows.check("stopped", "rollouts", history(trainer, "arrol/rollout/finish/pruned")[-1], least=1)
    mismatch = history(trainer, "sampling/sampling_logp_difference/mean")
    rows.check("log-probabilities of vLLM and learner", "nats", max(mismatch), most=MISMATCH, steps=mismatch)
    losses, norms = history(trainer, "loss"), history(trainer, "grad_norm")
    finite = float(all(map(math.isfinite, [*losses, *norms])))
    rows.check("finite losses and gradients", "", finite, least=1.0, losses=losses, norms=norms)


def build_trainer(folder: Path, flags: argparse.Namespace) -> Any:
    from datasets import Dataset

    from arrol.integrations.trl import GRPOConfig, GRPOTrainer

    tokenizer = character_tokenizer("0123456789+= ")
    save_model(folder / "model", tokenizer, flags)
    prompts = [f"{i % 10}+{(3 * i) % 10}=" for i in range(32)]
    rows = [{"prompt": text, "answer": str(i % 10)} for i, text in enumerate(prompts)]
    on_gpu = device().type == "cuda"
    arguments = GRPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=16 if flags.smoke else 64,
        num_generations=8,
        max_completion_length=24 if flags.smoke else 96,
        max_steps=3 if flags.smoke else 5,
        learning_rate=5e-3 if flags.smoke else 1e-3,
        bf16=True,
        use_cpu=not on_gpu,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_max_model_length=128,
        vllm_gpu_memory_utilization=gpu_share(8),
        rule="uniform",
        keep_ratio=0.5,
        probe_tokens=[6 if flags.smoke else 8],  # an end comes after 16 tokens in the mean
        pruning_warmup_steps=1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=str(folder / "model"), reward_funcs=has_digit, args=arguments, train_dataset=Dataset.from_list(rows)
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def has_digit(completions: list[str], answer: list[str], **others: Any) -> list[float]:
    """Right when the answer's digit occurs: a random model manages that now and then."""
    return [float(digit in completion) for completion, digit in zip(completions, answer, strict=True)]


def save_model(folder: Path, tokenizer: Any, flags: argparse.Namespace) -> None:
    hidden, layers = (128, 2) if flags.smoke else (512, 8)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def reload_weights(trainer: Any, folder: Path) -> None:
    def sync_weights() -> None:
        trainer.model.save_pretrained(folder)
        trainer.vllm_generation.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        trainer.vllm_generation.llm.reset_prefix_cache()

    trainer.vllm_generation.sync_weights = sync_weights


def history(trainer: Any, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


if __name__ == "__main__":
    run_parts({"trl colocated": colocated}, __doc__ or "")
