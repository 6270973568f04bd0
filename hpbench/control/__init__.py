"""Meta-environments: a whole training run as one episode, its hyperparameters as the action."""
