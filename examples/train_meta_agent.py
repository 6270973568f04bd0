"""A meta-agent trained by Stable-Baselines3 PPO, then tested on task variants that it has never seen.

    python examples/train_meta_agent.py --minutes 10

Trains on the train variants of three classic tasks, where every meta-episode starts from random hyperparameters (track
``random``), and plays against other agents on test variants: same variants, same seeds, pair by pair. (The mountain
cars are left out: in runs as short as these nothing is learned on them, whatever the hyperparameters.) Writes
``meta_agent.md``, ``meta_agent.json`` and the policy, ``meta_agent.npz``, to ``examples/results/``. ``--test`` repeats
the test with the policy that lies there. Time ends training wherever it is; ``--decisions 13200`` is what ten minutes
were when the numbers beside this file were made, and gives the same policy again on the same platform.

The policy is an agent like any other: in this folder, ``hpbench run --agent train_meta_agent:MetaAgent``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import hpbench
from hpbench.evaluation.statistics import compare

TEST_SEED = 100
FOLDER = Path(__file__).parent / "results"
POLICY = FOLDER / "meta_agent.npz"
SETTING: dict[str, Any] = {"track": "random", "steps": 10_240, "decisions": 10}
TASKS = ("classic/cartpole", "classic/acrobot", "classic/pendulum")
TRAIN = {**SETTING, "action": "absolute", "reward": "auc", "evaluation_episodes": 3}
TEST = {**SETTING, "evaluation_episodes": 10}
PPO_SETTINGS: Mapping[str, Any] = {
    "n_steps": 20,  # two meta-episodes of every environment
    "batch_size": 120,
    "n_epochs": 10,
    "learning_rate": 7e-4,
    "gamma": 0.95,
    "gae_lambda": 0.9,
    "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.7},
}


class MetaAgent:
    """The trained policy without its trainer: a tanh network on the vector observation, in NumPy.

    Args:
        weights: of the layers in turn, ``w0, b0, w1, b1, ...``; or the file that holds them.
    """

    name = "meta-agent"
    observation = "vector"
    action = "absolute"

    def __init__(self, weights: Mapping[str, NDArray[np.float32]] | str | Path = POLICY) -> None:
        if not isinstance(weights, Mapping):
            with np.load(weights) as file:
                weights = dict(file)
        self.layers = [(weights[f"w{i}"], weights[f"b{i}"]) for i in range(len(weights) // 2)]

    def save(self, path: Path) -> None:
        """Write the weights to an ``.npz`` file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, **{f"{kind}{i}": a for i, pair in enumerate(self.layers) for kind, a in zip("wb", pair, strict=True)}
        )

    def reset(self, spec: hpbench.AgentSpec, seed: int) -> None:
        """Start of a meta-episode; the policy remembers nothing and draws nothing."""

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of the policy, float32 ``[hot hyperparameters]`` in ``[-1, 1]``."""
        *hidden, (weight, bias) = self.layers
        x = observation
        for w, b in hidden:
            x = np.tanh(w @ x + b)
        return np.clip(weight @ x + bias, -1.0, 1.0).astype(np.float32)


def weights_of(policy: Any) -> dict[str, NDArray[np.float32]]:
    """The actor of a Stable-Baselines3 ``MlpPolicy``."""
    linear = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear)]
    weights = {}
    for i, layer in enumerate([*linear, policy.action_net]):
        weights[f"w{i}"], weights[f"b{i}"] = (tensor.detach().cpu().numpy() for tensor in (layer.weight, layer.bias))
    return weights


def train(
    minutes: float, decisions: int, num_envs: int, seed: int, options: Mapping[str, Any]
) -> tuple[MetaAgent, MetaAgent, int]:
    """PPO until the time is over or so many decisions have been made.

    Returns:
        The agent, the same network before training, and the decisions that it was trained on
        (the clock may cut the last rollout short).
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecMonitor

    from hpbench.control.sb3 import SB3VecEnv

    start = time.monotonic()

    class Clock(BaseCallback):
        """Stops when the time is over, and says on the way how it goes."""

        trained = 0

        def _on_step(self) -> bool:
            return time.monotonic() - start < 60.0 * minutes

        def _on_rollout_end(self) -> None:
            self.trained = self.num_timesteps
            recent = [episode["r"] for episode in self.model.ep_info_buffer or []]
            print(
                f"{time.monotonic() - start:6.0f} s {self.num_timesteps:7d} decisions, "
                f"mean score {np.mean(recent):.3f} of the last {len(recent)} meta-episodes",
                flush=True,
            )

    parts: list[Any] = [
        gym.make_vec(
            "HPControl-Classic-v0",
            num_envs=num_envs // len(TASKS),
            vectorization_mode="vector_entry_point",
            autoreset_mode="SameStep",
            task=f"{task}@train",
            **options,
        )
        for task in TASKS
    ]
    envs = VecMonitor(SB3VecEnv(*parts))
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **PPO_SETTINGS)
    untrained = MetaAgent({name: array.copy() for name, array in weights_of(model.policy).items()})
    clock = Clock()
    model.learn(decisions, callback=clock)
    envs.close()
    return MetaAgent(weights_of(model.policy)), untrained, clock.trained


def test(
    make: Callable[[], Any], episodes: int, task: str, options: Mapping[str, Any]
) -> tuple[list[str], NDArray[np.float64]]:
    """Meta-episodes of an agent on test variants of a task, which are the same for every agent: so are the initial
    hyperparameters and all random streams of the learners.

    Returns:
        Variants and meta-scores, ``[episodes]`` each.
    """
    crew = [make() for _ in range(episodes)]
    envs: Any = gym.make_vec(
        "HPControl-Classic-v0",
        num_envs=episodes,
        vectorization_mode="vector_entry_point",
        task=f"{task}@test",
        action=crew[0].action,
        **options,
    )
    seeds = [TEST_SEED + i for i in range(episodes)]
    observations, infos = envs.reset(seed=seeds)
    names = list(infos["hpbench"]["task"])
    scores, running = np.full(episodes, np.nan), np.ones(episodes, dtype=np.bool_)
    for member, spec, one in zip(crew, envs.unwrapped.agent_specs, seeds, strict=True):
        member.reset(spec, one)
    while running.any():
        actions = np.array([member.act(row) for member, row in zip(crew, observations, strict=True)])
        observations, _, terminated, truncated, infos = envs.step(actions)
        over = (terminated | truncated) & running
        scores[over] = infos["hpbench"].get("meta_score", scores)[over]
        running &= ~over
    envs.close()
    return names, scores


def report(results: Mapping[str, NDArray[np.float64]], names: list[str], facts: Mapping[str, Any]) -> None:
    """Print the comparison, and write it as JSON and Markdown."""
    bases = sorted({name.partition("@")[0] for name in names})
    columns = [np.array([i for i, name in enumerate(names) if name.startswith(f"{base}@")]) for base in bases]
    ours = results["meta-agent"]
    lines = [
        "| agent | meta-score | meta-agent minus this, 95 % interval | wins / ties / losses |",
        "|---|---:|---:|---:|",
    ]
    against = {}
    for name, scores in results.items():
        if name == "meta-agent":
            lines.append(f"| {name} | {scores.mean():.3f} | | |")
            continue
        result = compare([ours[c] for c in columns], [scores[c] for c in columns])
        low, high = result.difference.low, result.difference.high
        against[name] = {"difference": result.difference.estimate, "low": low, "high": high}
        lines.append(
            f"| {name} | {scores.mean():.3f} | {result.difference.estimate:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"| {result.wins} / {result.ties} / {result.losses} |"
        )
    lines += ["", f"| task (test variants) | episodes | {' | '.join(results)} |", f"|---|---:|{'---:|' * len(results)}"]
    for base, c in zip(bases, columns, strict=True):
        lines.append(f"| {base} | {len(c)} | {' | '.join(f'{scores[c].mean():.3f}' for scores in results.values())} |")
    table = "\n".join(lines)
    print(table)
    data = {
        "training": facts,
        "train": TRAIN,
        "test": TEST,
        "ppo": PPO_SETTINGS,
        "against": against,
        "tasks": names,
        "meta_scores": {k: v.tolist() for k, v in results.items()},
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "meta_agent.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    shown = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"# A meta-agent trained by PPO, on held-out classic variants\n\n{table}\n\n{shown}\n"
    (FOLDER / "meta_agent.md").write_text(text, encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training")
    parser.add_argument("--decisions", type=int, default=10**9, help="of training, if there is time enough")
    parser.add_argument("--num-envs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=40, help="of the test, per agent and task")
    parser.add_argument("--test", action="store_true", help="test the policy in examples/results/ again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts: dict[str, Any] = {}
    agents: dict[str, Callable[[], Any]] = {}
    if arguments.test:
        facts = json.loads((FOLDER / "meta_agent.json").read_text(encoding="utf-8"))["training"]
    else:
        start = time.monotonic()
        agent, untrained, decisions = train(
            arguments.minutes, arguments.decisions, arguments.num_envs, arguments.seed, TRAIN
        )
        facts = {
            "command": f"python examples/train_meta_agent.py --minutes {arguments.minutes:g} "
            f"--num-envs {arguments.num_envs} --seed {arguments.seed} --episodes {arguments.episodes}",
            "decisions": decisions,
            "inner environment steps": decisions * SETTING["steps"] // SETTING["decisions"],
            "the same policy again": "--minutes 60 --decisions " + str(decisions),
            "wall time in seconds, one thread": round(time.monotonic() - start),
            "machine": platform.machine(),
        }
        agent.save(POLICY)
        agents["untrained network"] = lambda: untrained
    agents = {
        "meta-agent": MetaAgent,
        "library-default": lambda: hpbench.make_agent("library-default"),
        **agents,
        "static-random": lambda: hpbench.make_agent("static-random"),
        "kl-adaptive": lambda: hpbench.make_agent("kl-adaptive"),
        "hand-tuned": lambda: hpbench.make_agent("hand-tuned"),
    }
    names: list[str] = []
    results = {}
    for name, make in agents.items():
        played = [test(make, arguments.episodes, task, TEST) for task in TASKS]
        names = [variant for variants, _ in played for variant in variants]
        results[name] = np.concatenate([scores for _, scores in played])
        print(f"{name}: {results[name].mean():.3f}", flush=True)
    report(results, names, facts)


if __name__ == "__main__":
    main()
