"""HPBench: training runs as Gymnasium environments, for agents that change the hyperparameters while a run goes on.

Importing this package registers the environment ids (``HPControl-Classic-v0``, ...) with Gymnasium. Everything else is
imported when it is first used, so that the import stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hpbench.control.registration import register_environments

if TYPE_CHECKING:
    from hpbench import errors, learners, tasks
    from hpbench.agent import (
        AGENTS,
        Agent,
        AgentSpec,
        BatchAgent,
        Branches,
        PopulationAgent,
        PopulationSpec,
        Step,
        make_agent,
        make_population_agent,
    )
    from hpbench.control.env import HPControlEnv
    from hpbench.control.episode import EnvOptions, EpisodeBatch
    from hpbench.control.registration import parallel_env
    from hpbench.control.vector import HPControlVectorEnv
    from hpbench.errors import HPBenchError
    from hpbench.evaluation.population import run_population
    from hpbench.evaluation.runner import run
    from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace

__version__ = "0.1.0"

__all__ = [
    "AGENTS",
    "Agent",
    "AgentSpec",
    "BatchAgent",
    "Branches",
    "EnvOptions",
    "EpisodeBatch",
    "HPBenchError",
    "HPControlEnv",
    "HPControlVectorEnv",
    "Hyperparameter",
    "HyperparameterSpace",
    "PopulationAgent",
    "PopulationSpec",
    "Step",
    "__version__",
    "errors",
    "learners",
    "make_agent",
    "make_population_agent",
    "parallel_env",
    "run",
    "run_population",
    "tasks",
]

_MODULES = ("errors", "learners", "tasks")
_ATTRIBUTES = {
    "AGENTS": "hpbench.agent",
    "Agent": "hpbench.agent",
    "AgentSpec": "hpbench.agent",
    "BatchAgent": "hpbench.agent",
    "Branches": "hpbench.agent",
    "EnvOptions": "hpbench.control.episode",
    "EpisodeBatch": "hpbench.control.episode",
    "HPBenchError": "hpbench.errors",
    "HPControlEnv": "hpbench.control.env",
    "HPControlVectorEnv": "hpbench.control.vector",
    "Hyperparameter": "hpbench.hyperparameter",
    "HyperparameterSpace": "hpbench.hyperparameter",
    "PopulationAgent": "hpbench.agent",
    "PopulationSpec": "hpbench.agent",
    "Step": "hpbench.agent",
    "make_agent": "hpbench.agent",
    "make_population_agent": "hpbench.agent",
    "parallel_env": "hpbench.control.registration",
    "run": "hpbench.evaluation.runner",
    "run_population": "hpbench.evaluation.population",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hpbench.{name}")
    if name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hpbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_environments()
