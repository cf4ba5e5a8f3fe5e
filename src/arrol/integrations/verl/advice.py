"""What to do about a run of verl that learns nothing, in the names of verl's settings and ours."""

LOOK = "look at some responses (trainer.rollout_data_dir)"
ADVICE: dict[str, str] = {
    "no_rewards": (
        "every reward failed or was not finite; call the reward function with rows of data.train_files by hand, "
        "then mend it"
    ),
    "truncated": (
        "the limit is short for this task, or the model never writes the end token; raise "
        "data.max_response_length, or start from a model that ends its answers"
    ),
    "no_answers": f"the prompt does not ask for the form that the reward function reads; {LOOK}, then change it",
    "one_reward": (
        "the prompts are far too hard or far too easy for this model, or the reward function does not read the "
        f"response; {LOOK}, then choose other prompts or another model"
    ),
    "dead_groups": (
        "each prompt is too hard or too easy for this model; choose prompts that it gets right now and then, or "
        "raise actor_rollout_ref.rollout.n or actor_rollout_ref.rollout.temperature"
    ),
    "one_label": (
        "it cannot learn which rollouts end right; set arrol.success_threshold between the rewards of wrong and "
        "of right answers, choose prompts that the model gets right now and then, or train with arrol.rule=never "
        "until it does"
    ),
    "no_labels": "no reward was a finite number; mend the reward function",
}
"""Kind of finding -> likely causes and next step."""
