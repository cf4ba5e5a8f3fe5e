#!/usr/bin/env bash
# verl with pruning: four steps of GRPO on two-digit arithmetic with the shipped model, on a CPU, in about 2 minutes.
#
#     make verl-env
#     bash examples/07_verl_quickstart.sh
#
# Expected: four lines "step:1 - ..." to "step:4 - ..." with arrol/pruning/kept_frac 1.0 in step 1 (warm-up), 0.5 after;
# and runs/verl/checkpoints/global_step_4/arrol_head.json. Run again, it resumes from there with the same head.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$PWD/.venv-verl/bin/python} WORK=${WORK:-$PWD/runs/verl}

# ONLY FOR A MACHINE WITHOUT A GPU: the CPU platform of our tests, with Hugging Face as the rollout server. Not for real runs.
export VERL_PLATFORM=cpu VERL_ENGINE_DEVICE=cuda VERL_USE_EXTERNAL_MODULES=verlcpu PYTHONPATH=$PWD/tests/with_verl
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 RAY_ADDRESS=local RAY_USAGE_STATS_ENABLED=0 WANDB_MODE=disabled
cpu=$("$PYTHON" tests/verl_host.py "$WORK" --platform) # prepares prompts and model, too
cpu="$cpu ray_kwargs.ray_init.num_cpus=32 +ray_kwargs.ray_init.num_gpus=1 +ray_kwargs.ray_init.include_dashboard=False"
cpu="$cpu +ray_kwargs.ray_init._node_ip_address=127.0.0.2" # loopback; Ray replaces 127.0.0.1 by an outer address

# Your verl command without pruning.
verl=(
  algorithm.adv_estimator=grpo
  data.train_files="$WORK/train.parquet" data.val_files="$WORK/val.parquet" data.dataloader_num_workers=0
  data.train_batch_size=8 data.max_prompt_length=32 data.max_response_length=112
  actor_rollout_ref.model.path="$WORK/model"
  actor_rollout_ref.rollout.n=4 actor_rollout_ref.rollout.agent.num_workers=2
  actor_rollout_ref.actor.ppo_mini_batch_size=8 actor_rollout_ref.actor.optim.lr=1e-4
  reward.custom_reward_function.path="$PWD/tests/verl_host.py" reward.num_workers=1
  trainer.n_gpus_per_node=1 trainer.nnodes=1 'trainer.logger=[console]'
  trainer.total_training_steps=${STEPS:-4} trainer.val_before_train=False trainer.test_freq=4 trainer.save_freq=4
  trainer.default_local_dir="$WORK/checkpoints"
)
# How to prune ...
arrol=(+arrol.rule=neyman +arrol.keep_ratio=0.5 +arrol.probe_tokens=12 +arrol.warmup_steps=1)
# ... and the settings that follow, printed by the helper. It refuses a command that cannot work.
derived=$("$PYTHON" -m arrol.integrations.verl "${verl[@]}" "${arrol[@]}" $cpu)
printf 'derived lines:\n%s\n' "$derived"

exec "$PYTHON" -m verl.trainer.main_ppo "${verl[@]}" "${arrol[@]}" $derived $cpu "hydra.run.dir=$WORK/hydra"
