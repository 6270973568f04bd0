"""Meta-training: from recorded runs to a language-model meta-agent. Each stage is a command that can be resumed.

- :mod:`agents.training.collect`: meta-episodes and branch sets, in shards of parquet files.
- :mod:`agents.training.labels`: which update a branch set speaks for, with the winner's curse taken out.
- :mod:`agents.training.examples`: prompts with completions, for supervised and for group-relative training.
- :mod:`agents.training.dataset`: the shards as Hugging Face ``datasets``.
"""
