"""Language models as meta-agents: one prompt format, several ways to get an answer out of a model."""
