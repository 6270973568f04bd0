"""What a random policy reaches in Doom: the low anchors of ``hpbench/tasks/doom.py``.

    python examples/doom_anchors.py                      # all scenarios, 500 episodes each: some minutes on 2 cores
    python examples/doom_anchors.py --episodes 4 --scenarios basic

How episodes are played, ``hpbench/tasks/random_play.py`` says. ``--scripted`` measures two high anchors instead: of the
deadly corridor, what its way is worth to a player who cannot die; of the basic scenario, what a player reaches who
knows where the monster is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hpbench.learners.simulator_pool import make_simulator
from hpbench.tasks.doom import TASKS
from hpbench.tasks.doom_simulator import BUTTONS, FRAME_SKIP, LIMITS
from hpbench.tasks.random_play import random_play

NEAR = 26.0
"""Map units that the monster may stand aside; it reaches 31 to each side. Of 10, 16, 20 and 26 this was best."""
OUT = Path(__file__).parent / "results" / "doom_anchors.json"


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
    rows: list[dict[str, Any]] = []
    for scenario in options.scenarios:
        task = TASKS[scenario.replace("_", "-")]
        assert task.simulator is not None
        simulator = make_simulator(task.simulator, options.batch, task=task.id)
        played = random_play(task, simulator, options.episodes)
        simulator.close()
        rows.append({"scenario": scenario, "limit": task.max_episode_steps, **played.summary()})
        print(json.dumps(rows[-1]), flush=True)
        written = {"policy": "uniform", "frame_skip": FRAME_SKIP, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
