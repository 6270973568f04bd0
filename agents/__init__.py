"""Meta-agents: what chooses the hyperparameter updates. One file per agent, found through entry points.

This file holds a docstring only: another well-known distribution installs a package of the same name, and pip
overwrites one by the other without a word (see ``hpbench doctor``).
"""
