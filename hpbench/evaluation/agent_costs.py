"""What agents say that they used or did besides time, from the files beside the records: tokens, prices, edits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpbench.evaluation.results import Results
from hpbench.evaluation.tables import Cell, Table

SHARES = ("edit_rate", "staleness")
"""Means over decisions."""
COLUMNS = {
    "calls": "calls",
    "prompt_tokens": "tokens read",
    "completion_tokens": "tokens written",
    "price": "price",
    "invalid": "invalid",
    "unanswered": "unanswered",
    "edits": "edits",
    "edit_rate": "edit rate",
    "reversals": "reversals",
    "feedback_lines": "feedback lines",
    "staleness": "staleness",
    "latency_p50": "latency p50 (s)",
    "latency_p95": "latency p95 (s)",
}
"""What the table shows of an agent's ``costs()``."""
TITLE = "What agents used to decide"


def agent_costs(results: Results) -> Table:
    """Totals over the rows of every agent that has such costs.

    Edit rate and staleness are means over decisions; latencies are the median of the rows' medians and the largest of
    their 95 % quantiles.
    """
    rows: list[tuple[Cell, ...]] = []
    for agent in results.agents:
        costs = [cost.agent for row in results.rows(agent) if (cost := results.costs(agent, row)) is not None]
        kept = [cost for cost in costs if cost]
        if kept:
            rows.append((agent, _total(kept, "decisions"), *(_total(kept, name) for name in COLUMNS)))
    return Table(TITLE, ("agent", "decisions", *COLUMNS.values()), tuple(rows))


def _total(costs: Sequence[dict[str, float]], name: str) -> Cell:
    known = [cost for cost in costs if name in cost]
    if not known:
        return None
    numbers = [cost[name] for cost in known]
    if name in SHARES:
        weights = [cost.get("decisions", 1.0) for cost in known]
        return float(np.average(numbers, weights=weights)) if sum(weights) > 0 else None
    if name == "latency_p50":
        return float(np.median(numbers))
    if name == "latency_p95":
        return max(numbers)
    total = float(sum(numbers))
    return int(total) if total.is_integer() and name != "price" else total
