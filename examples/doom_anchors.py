"""What a random policy reaches in Doom: the low anchors of ``hpbench/tasks/doom.py``.

    python examples/doom_anchors.py                      # all scenarios, 500 episodes each: some minutes on 2 cores
    python examples/doom_anchors.py --episodes 4 --scenarios basic

Every action is drawn uniformly, from a generator of its own for every episode; episodes have the seeds 0, 1, 2, ... The
mean return is written with its standard error, and what one episode in twenty reaches. ``--scripted`` measures two high
anchors instead: of the deadly corridor, what its way is worth to a player who cannot die; of the basic scenario, what a
player reaches who knows where the monster is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.doom_simulator import BUTTONS, FRAME_SKIP, LIMITS, DoomMaker

NEAR = 26.0
"""Map units that the monster may stand aside; it reaches 31 to each side. Of 10, 16, 20 and 26 this was best."""
OUT = Path(__file__).parent / "results" / "doom_anchors.json"


def play(pool: SimulatorPool, scenario: str, episodes: int, batch: int) -> dict[str, list[float]]:
    """Returns and lengths of random episodes, and whether they ended before the time limit."""
    simulator = pool.make(DoomMaker(scenario, LIMITS[scenario]), batch, task=scenario)
    played: dict[str, list[float]] = {"returns": [], "lengths": [], "ended": []}
    for first in range(0, episodes, batch):
        seeds = list(range(first, min(first + batch, episodes)))
        generators = [np.random.default_rng(seed) for seed in seeds]
        simulator.reset(range(len(seeds)), seeds)
        total, length, actions = np.zeros(batch), np.zeros(batch), np.zeros(batch, dtype=np.int64)
        running = list(range(len(seeds)))
        for _ in range(LIMITS[scenario]):
            if not running:
                break
            for env in running:
                actions[env] = generators[env].integers(BUTTONS[scenario] + 1)
            simulator.step(actions, running)
            total[running] += simulator.reward[running]
            length[running] += 1
            running = [env for env in running if not simulator.terminated[env]]
        played["returns"] += total[: len(seeds)].round(6).tolist()
        played["lengths"] += length[: len(seeds)].tolist()
        played["ended"] += [float(env not in running) for env in range(len(seeds))]
    simulator.close()
    return played


def summary(scenario: str, played: dict[str, list[float]]) -> dict[str, Any]:
    """One row of the table."""
    returns = np.array(played["returns"])
    return {
        "scenario": scenario,
        "limit": LIMITS[scenario],
        "episodes": len(returns),
        "mean": round(float(returns.mean()), 4),
        "standard_error": round(float(returns.std(ddof=1) / len(returns) ** 0.5), 4),
        "median": round(float(np.median(returns)), 4),
        "p95": round(float(np.quantile(returns, 0.95)), 4),
        "best": round(float(returns.max()), 4),
        "ended": round(float(np.mean(played["ended"])), 4),
        "steps": round(float(np.mean(played["lengths"])), 1),
    }


def open_game(scenario: str) -> Any:
    """ViZDoom's own game, with cheats and with the places of all things."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
    game.set_window_visible(False)
    game.set_objects_info_enabled(True)
    game.set_episode_timeout(0)
    game.set_doom_config_path("/dev/null")
    game.add_game_args("+sv_cheats 1")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it makes a folder where it is started
        game.init()
    return game


def walk() -> list[float]:
    """The return of walking straight to the end of the deadly corridor, for a player who cannot die."""
    game = open_game("deadly_corridor")
    game.new_episode()
    game.send_game_command("god")
    total = 0.0
    while not game.is_episode_finished():
        total += game.make_action([0, 0, 0, 1, 0, 0, 0], FRAME_SKIP)
    game.close()
    return [total]


def aim(episodes: int) -> list[float]:
    """Returns in ``basic`` of a player who knows where the monster stands, walks there and shoots when near enough."""
    game, returns = open_game("basic"), []
    left, right, attack = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    for seed in range(episodes):
        game.set_seed(seed)
        game.new_episode()
        total, steps = 0.0, 0
        while not game.is_episode_finished() and steps < LIMITS["basic"]:
            things = {thing.name: thing.position_y for thing in game.get_state().objects}
            aside = next(place for name, place in things.items() if name != "DoomPlayer") - things["DoomPlayer"]
            action = attack if abs(aside) < NEAR else left if aside > 0 else right
            total += game.make_action(action, FRAME_SKIP)
            steps += 1
        returns.append(total)
    game.close()
    return returns


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=list(BUTTONS), choices=list(BUTTONS))
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--batch", type=int, default=20, help="games at a time")
    parser.add_argument("--scripted", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.scripted:
        print("deadly_corridor", walk())
        returns = np.array(aim(options.episodes))
        print("basic", returns.mean(), "standard error", returns.std(ddof=1) / len(returns) ** 0.5, "of", len(returns))
        return
    pool = SimulatorPool()
    rows: list[dict[str, Any]] = []
    for scenario in options.scenarios:
        rows.append(summary(scenario, play(pool, scenario, options.episodes, options.batch)))
        print(json.dumps(rows[-1]), flush=True)
        written = {"policy": "uniform", "frame_skip": FRAME_SKIP, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    pool.close()


if __name__ == "__main__":
    main()
