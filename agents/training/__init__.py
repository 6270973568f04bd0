"""Meta-training: from recorded runs to a language-model meta-agent. Each stage is a command that can be resumed.

- :mod:`agents.training.collect`: meta-episodes and branch sets, in shards of parquet files.
- :mod:`agents.training.labels`: which update a branch set speaks for, with the winner's curse taken out.
- :mod:`agents.training.examples`: prompts with completions, for supervised and for group-relative training.
- :mod:`agents.training.dataset`: the shards as Hugging Face ``datasets``.
- :mod:`agents.training.tiny`: a small model from nothing, pretrained on whole trajectories.
- :mod:`agents.training.sft`: fine-tuning on labels, by TRL.
- :mod:`agents.training.grpo`: policy optimisation among recorded branches, by TRL.
- :mod:`agents.training.ppo`: policy optimisation by trying what the model writes on live branches, by TRL.
"""
