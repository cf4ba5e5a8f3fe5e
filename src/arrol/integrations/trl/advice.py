"""What to do about a run of TRL that learns nothing, in the names of TRL's arguments and ours."""

LOOK = "look at some completions (arrol view OUTPUT_DIR, or log_completions = True)"
ADVICE: dict[str, str] = {
    "no_rewards": (
        "every reward function gave None, for example for want of a column; call them with rows of train_dataset "
        "by hand, then mend them"
    ),
    "truncated": (
        "the limit is short for this task, or the model never writes the end token; raise max_completion_length, "
        "or start from a model that ends its answers"
    ),
    "no_answers": f"the prompt does not ask for the form that reward_funcs read; {LOOK}, then change the prompt",
    "one_reward": (
        "the prompts are far too hard or far too easy for this model, or reward_funcs do not read the completion; "
        f"{LOOK}, then choose other prompts or another model"
    ),
    "dead_groups": (
        "each prompt is too hard or too easy for this model; choose prompts that it gets right now and then, or "
        "raise num_generations or temperature"
    ),
    "one_label": (
        "it cannot learn which rollouts end right; set success_threshold between the rewards of wrong and of "
        "right answers, choose prompts that the model gets right now and then, or train with rule = 'never' until "
        "it does"
    ),
    "no_labels": "the reward function of success_reward gave None; name one that judges every completion",
}
"""Kind of finding -> likely causes and next step."""
