"""An agent of your own in ten lines, next to the library defaults on the quick suite.

    python examples/own_agent.py

Finished rows are kept in ``results/``; started again, it only shows the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import hpbench
from hpbench.evaluation.tables import ranking


class Sprinter:
    """Fast first, careful later: doubles the learning rate twice, then lets it fall by a tenth per decision."""

    name = "sprinter"

    def reset(self, spec: hpbench.AgentSpec, seed: int) -> None:
        self.spec, self.decision = spec, 0

    def act(self, observation: Any) -> Any:
        self.decision += 1
        delta = np.zeros(len(self.spec.hyperparameters.hot), dtype=np.float32)
        delta[self.spec.hyperparameters.hot.index("learning_rate")] = 0.5 if self.decision <= 2 else -0.075
        return delta


if __name__ == "__main__":
    results = hpbench.run([Sprinter(), "library-default"], suite="quick-v0")
    print(ranking(results).to_text())
