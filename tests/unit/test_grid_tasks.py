"""The grid worlds rule by rule, on drawn grids; their pools of levels; their variants."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import xxhash
from torch import Tensor

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners.play import play
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.rollout import Environments, evaluation_physics, physics_of
from hpbench.tasks.base import VARIANTS, Task
from hpbench.tasks.grid_dynamics import POOL_BITS, Grid
from hpbench.tasks.grid_layouts import DoorKey, FourRooms, Obstacles, room_paths
from hpbench.tasks.grid_parts import OBSERVATION_SIZE, PLANES, SYMBOLS, VIEW, Action, Part, picture

IDS = tasks.task_ids("grid")
LEFT, RIGHT, FORWARD, PICKUP, TOGGLE = Action
CPU = torch.device("cpu")


def table(task: Task, **values: float) -> Tensor:
    """Physics ``[1, columns]`` with some values changed."""
    row = {**task.physics, **values}
    return torch.tensor([[row[name] for name in task.dynamics.physics]], dtype=torch.float64)


def drawn(text: str, carrying: bool = False) -> Tensor:
    """A state ``[1, 1, state_size]`` from a picture; the agent stands on an empty cell."""
    symbols = [symbol for symbol in text if not symbol.isspace()]
    (agent,) = (i for i, symbol in enumerate(symbols) if symbol in ">v<^")
    cells = [0 if i == agent else SYMBOLS.index(symbol) for i, symbol in enumerate(symbols)]
    parts = [agent, ">v<^".index(symbols[agent]), int(carrying), 0, 12345]
    return torch.tensor([[[*cells, *parts]]], dtype=torch.float64)


def run(state: Tensor, *actions: Action, **values: float) -> tuple[str, float, bool]:
    """Picture, reward and end after actions on a drawn grid."""
    dynamics, physics = DoorKey(5), table(tasks.make("grid/doorkey-5x5"), step_cost=0.01, **values)
    reward, over = 0.0, False
    for action in actions:
        assert not over
        state, rewards, terminated = dynamics.step(state, torch.tensor([[int(action)]]), physics)
        reward, over = float(rewards), bool(terminated)
    return picture(5, state[0, 0]), reward, over


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


ROOM = """
    #####
    #k#.#
    #>L.#
    #.#G#
    #####
"""


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([FORWARD], ROOM),  # a locked door blocks
        ([TOGGLE], ROOM),  # and does not open without its key
        ([LEFT, FORWARD], ROOM.replace(">", "^")),  # a key blocks
        ([RIGHT, RIGHT, FORWARD], ROOM.replace(">", "<")),  # a wall blocks
        ([LEFT, PICKUP], ROOM.replace(">", "^").replace("k", ".")),
        ([LEFT, TOGGLE], ROOM.replace(">", "^")),
        ([PICKUP], ROOM),  # a door cannot be taken
        ([LEFT, PICKUP, RIGHT, FORWARD], ROOM.replace("k", ".")),  # with the key, a door still needs to be opened
        ([LEFT, PICKUP, RIGHT, TOGGLE], ROOM.replace("k", ".").replace("L", "'")),
        ([LEFT, PICKUP, RIGHT, TOGGLE, TOGGLE], ROOM.replace("k", ".").replace("L", "+")),
        ([LEFT, PICKUP, RIGHT, TOGGLE, FORWARD], ROOM.replace("k", ".").replace(">L", ".>")),
        ([LEFT, PICKUP, FORWARD], ROOM.replace("k", "^").replace(">", ".")),
        ([RIGHT, RIGHT, RIGHT, RIGHT], ROOM),
        ([LEFT, LEFT], ROOM.replace(">", "<")),
    ],
)
def test_keys_doors_and_walls(actions: list[Action], expected: str) -> None:
    shown, reward, over = run(drawn(ROOM), *actions)
    assert shown == lines(expected)
    assert (reward, over) == (0.0, False)


def test_a_second_key_is_left() -> None:
    shown, _, _ = run(drawn(ROOM, carrying=True), LEFT, PICKUP)
    assert shown == lines(ROOM.replace(">", "^"))


def test_the_goal_pays_by_the_steps_taken() -> None:
    shown, reward, over = run(drawn(ROOM), LEFT, PICKUP, RIGHT, TOGGLE, FORWARD, FORWARD, RIGHT, FORWARD)
    assert shown == lines(ROOM.replace("k", ".").replace(">L", ".'").replace("G", "v"))
    assert reward == pytest.approx(1.0 - 0.01 * 8)
    assert over


@pytest.mark.parametrize("symbol", ["~", "o"])
def test_lava_and_obstacles_end_the_episode_with_nothing(symbol: str) -> None:
    state = drawn(ROOM.replace("L", symbol))
    assert run(state, FORWARD)[1:] == (0.0, True)
    assert run(state, LEFT)[1:] == (0.0, False)
    assert run(state, TOGGLE)[1:] == (0.0, False)


def test_time_limits_truncate() -> None:
    for task_id in IDS:
        task = tasks.make(task_id)
        envs, physics = Environments(task, 2), physics_of([task], CPU)
        state = envs.start(physics, torch.rand(1, 2, 2), torch.rand(1, 2, envs.noise_draws))
        state["env_elapsed"][:] = task.max_episode_steps - 2
        turn, reset, noise = torch.zeros(1, 2, 1), torch.rand(1, 2, 2), torch.rand(1, 2, envs.noise_draws)
        first = envs.step(state, physics, turn, reset, noise)
        second = envs.step(state, physics, turn, reset, noise)
        assert not (first.terminated | first.truncated | second.terminated).any()
        assert second.truncated.all()
        assert (state["env_state"][..., task.dynamics.state_size - 1 - _slots(task)] != 0).all()
        assert task.physics["step_cost"] * task.max_episode_steps == pytest.approx(0.9)  # MiniGrid's reward


def _slots(task: Task) -> int:
    assert isinstance(task.dynamics, Grid)
    return task.dynamics.obstacle_slots


# -- view -------------------------------------------------------------------------------------------------------------


def plane(state: Tensor, name: str, **values: float) -> list[list[float]]:
    """A plane of the observation on a drawn grid, rows from far to near, as the agent would draw it."""
    seen = DoorKey(5).observe(state, table(tasks.make("grid/doorkey-5x5"), **values))[0, 0]
    rows = seen[: len(PLANES) * VIEW * VIEW].view(len(PLANES), VIEW, VIEW)[PLANES.index(name)]
    return rows.flip(0).tolist()


@pytest.mark.parametrize(("agent", "place"), [("v", (3, 2)), (">", (4, 3)), ("<", (4, 1)), ("^", None)])
def test_the_view_turns_with_the_agent(agent: str, place: tuple[int, int] | None) -> None:
    """A key south of the agent: ahead of it, to its right, to its left, behind it."""
    shown = plane(drawn(f"#####\n#...#\n#.{agent}.#\n#.k.#\n#####"), "key")
    assert [(r, c) for r, c in itertools.product(range(VIEW), repeat=2) if shown[r][c]] == ([place] if place else [])


def test_the_view_reaches_four_cells_ahead_and_two_aside() -> None:
    ahead = plane(drawn("#####\n##.k#\n##..#\n##..#\n##^.#"), "key")
    assert [(r, c) for r, c in itertools.product(range(VIEW), repeat=2) if ahead[r][c]] == [(1, 3)]
    outside = plane(drawn("#####\n#...#\n#...#\n#..>#\n#####"), "wall", see_through=1.0)
    assert all(row == [1.0] * VIEW for row in outside[:4])  # what is not part of the grid is wall


def test_walls_and_closed_doors_hide_what_is_behind_them() -> None:
    corridor = "#####\n##G##\n##{}##\n##.##\n##^##"
    for door, value, behind in ((".", 0.0, 1.0), ("'", 0.33, 1.0), ("+", 0.67, 0.0), ("L", 1.0, 0.0)):
        state = drawn(corridor.format(door))
        assert plane(state, "door")[2][2] == pytest.approx(value, abs=0.01)
        assert plane(state, "goal")[1][2] == behind
        assert plane(state, "unseen")[1][2] == 1.0 - behind
        assert plane(state, "goal", see_through=1.0)[1][2] == 1.0
        assert sum(map(sum, plane(state, "unseen", see_through=1.0))) == 0.0


def test_observations_tell_direction_and_key() -> None:
    for direction, symbol in enumerate(">v<^"):
        for carrying in (False, True):
            state = drawn(ROOM.replace(">", symbol), carrying)
            seen = DoorKey(5).observe(state, table(tasks.make("grid/doorkey-5x5")))[0, 0]
            assert seen.shape == (OBSERVATION_SIZE,)
            assert seen[-5:].tolist() == [*(float(d == direction) for d in range(4)), float(carrying)]


# -- chance -----------------------------------------------------------------------------------------------------------


def test_slips_are_as_frequent_as_asked() -> None:
    task, envs = tasks.make("grid/empty-6x6"), 5000
    physics = table(task, slip=0.3)
    state = task.dynamics.reset(torch.rand(1, envs, 2, generator=torch.Generator().manual_seed(0)).double(), physics)
    direction = state[..., task.dynamics.state_size - len(Part) + Part.DIRECTION]
    after, _, _ = task.dynamics.step(state, torch.full((1, envs), int(LEFT)), physics)
    turned = (after[..., task.dynamics.state_size - len(Part) + Part.DIRECTION] - direction) % 4
    # Of the slips, one in five is a turn to the left after all.
    assert float((turned == 3).double().mean()) == pytest.approx(1 - 0.3 * 0.8, abs=0.025)
    assert float((turned == 1).double().mean()) == pytest.approx(0.3 * 0.2, abs=0.015)


def test_obstacles_move_to_free_neighbours_only() -> None:
    dynamics, task = Obstacles(6), tasks.make("grid/obstacles-6x6")
    physics = table(task, obstacles=4.0, obstacle_speed=0.7)
    state = dynamics.reset(torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(1)).double(), physics)
    assert ((state[..., :36] == 8).sum(-1) == 4).all()
    moved = 0
    for _ in range(20):
        before = state[..., -4:].long()
        state, _, over = dynamics.step(state, torch.zeros(1, 200, dtype=torch.int64), physics)
        places = state[..., -4:].long()
        assert not over.any()
        assert (state[..., :36] == 8).sum() == 4 * 200
        assert (state[..., :36].gather(-1, places) == 8).all()
        assert (state[..., 28] == 6).all()  # the goal stays
        assert ((places // 6 - before // 6).abs() <= 1).all()
        assert ((places % 6 - before % 6).abs() <= 1).all()
        assert (places != 7).all()  # the agent only turns
        moved += int((places != before).sum())
    assert moved / (20 * 200 * 4) == pytest.approx(0.7, abs=0.02)
    none = dynamics.reset(torch.rand(1, 5, 2).double(), table(task, obstacles=0.0))
    assert (none[..., -4:] == -1).all()


def test_room_paths_are_all_paths() -> None:
    assert len(room_paths(2, 2)) == 8
    assert len(room_paths(2, 4)) == 8
    for path in room_paths(3, 4):
        assert len(set(path)) == 4
        assert all(abs(a % 3 - b % 3) + abs(a // 3 - b // 3) == 1 for a, b in itertools.pairwise(path))


# -- levels -----------------------------------------------------------------------------------------------------------


def level_seeds(task: Task, evaluation: bool, draws: int = 4096) -> set[int]:
    """Level seeds that evenly spaced uniform numbers lead to."""
    physics = physics_of([task], CPU)
    physics = evaluation_physics(task, physics) if evaluation else physics
    assert isinstance(task.dynamics, Grid)
    return set(task.dynamics.level_seed((torch.arange(draws) / draws).double()[None], physics)[0].tolist())


def test_no_two_pools_share_a_level() -> None:
    names = ["grid/fourrooms-9x9", *(f"grid/fourrooms-9x9@{split}-{i}" for split in VARIANTS for i in range(5))]
    pools = [level_seeds(tasks.make(name), evaluation) for name in names for evaluation in (False, True)]
    assert len(set().union(*pools)) == sum(map(len, pools))
    assert max(map(len, pools)) == 4096
    everywhere = [
        tasks.make(f"{i}@{s}-{n}").physics["level_pool"] for i in IDS[:1] for s in VARIANTS for n in range(64)
    ]
    assert len(set(everywhere)) == len(everywhere)
    assert 0.0 not in everywhere


def test_a_pool_has_as_many_levels_as_it_says() -> None:
    task = tasks.make("grid/fourrooms-9x9")
    for levels, expected in ((1.0, 1), (7.0, 7), (15.2, 16), (float(2**POOL_BITS), 100_000)):
        physics = table(task, levels=levels)
        assert isinstance(task.dynamics, Grid)
        seeds = task.dynamics.level_seed((torch.arange(100_000) / 100_000).double()[None], physics)
        assert len(seeds.unique()) == expected


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_training_levels_are_not_played_in_evaluation(engine: str) -> None:
    """With one training level and no exploration to speak of, episodes in training are alike; in evaluation, not."""
    standard = tasks.make("grid/empty-6x6")
    task = dataclasses.replace(standard, physics={**standard.physics, "levels": 1.0})
    try:
        population = PPO(task, [0], PPOConfig(num_envs=16, num_steps=2), engine=engine)
    except InvalidConfiguration:
        pytest.skip("the native engine is not built")
    starts = population.state["env_state"][0, :, :-1]  # all but the seed of what happens later
    assert len(starts.unique(dim=0)) == 1
    # A policy that only walks ahead reaches the goal on the same levels whatever happens: the start decides.
    population.state["parameters"].zero_()
    last = population.networks.unpack(population.state["parameters"])[0][-1][1]
    last[..., int(FORWARD)] = 50.0
    before = population.state["env_physics"].clone()
    lengths = population.evaluate(64).lengths
    assert len(set(lengths[0].tolist())) > 1
    assert torch.equal(population.state["env_physics"], before)


def test_play_uses_the_evaluation_levels() -> None:
    task = tasks.make("grid/fourrooms-9x9")
    seen: list[Tensor] = []

    def act(observation: Tensor, _: Tensor) -> Tensor:
        seen.append(observation)
        return torch.zeros(*observation.shape[:2], 1)

    keys, calls = torch.tensor([7]), torch.tensor([0])
    play(Environments(task, 8), table(task, levels=1.0), act, 1, keys, calls)
    assert len(seen[0][0].unique(dim=0)) > 4


def test_other_tasks_evaluate_on_what_they_train_on() -> None:
    task = tasks.make("classic/cartpole")
    physics = physics_of([task], CPU)
    assert evaluation_physics(task, physics) is physics


def test_grids_of_different_size_do_not_share_a_population() -> None:
    with pytest.raises(InvalidConfiguration, match="same dynamics"):
        PPO([tasks.make("grid/lavagap-5x5"), tasks.make("grid/obstacles-5x5")], [0, 1])


@pytest.mark.parametrize("task_id", IDS)
def test_variants_are_playable_and_differ(task_id: str) -> None:
    variants = [tasks.make(f"{task_id}@{split}-{i}") for split in VARIANTS for i in range(60)]
    for variant in variants:
        physics = variant.physics
        assert 1.0 <= physics["levels"] <= 2**POOL_BITS
        assert physics["held_out"] == 0.0
        assert 0.0 <= physics["slip"] <= 0.2
        assert physics["see_through"] in (0.0, 1.0)
        assert 1.0 - physics["step_cost"] * variant.max_episode_steps >= 0.0099  # every success still pays
        assert 0.5 <= physics.get("obstacles", 2.0) <= 4.4
    for name in variants[0].physics:
        if name != "held_out":
            assert len({variant.physics[name] for variant in variants}) > 1, name


GOLDEN = {
    "grid/empty-6x6": "b0b8d4300ce3603e",
    "grid/doorkey-5x5": "ef4f9324f487c201",
    "grid/doorkey-6x6": "a7168b1214616aa1",
    "grid/doorkey-8x8": "155efe54b10b74a6",
    "grid/fourrooms-9x9": "adb7332638cbd0fa",
    "grid/multiroom-n2": "fe9ec43ef0fb850f",
    "grid/multiroom-n4": "753d02baa1f3ea27",
    "grid/lavagap-5x5": "7d3860b99eb41e43",
    "grid/lavagap-7x7": "bf65898dd8c57b0c",
    "grid/obstacles-5x5": "db0711a1b13e6864",
    "grid/obstacles-6x6": "deac629c095d677d",
}


def test_variants_never_change() -> None:
    assert tasks.make("grid/doorkey-5x5@train-0").physics == {
        "reward_scale": 2.651,
        "observation_noise": 0.0,
        "action_delay": 0.0,
        "levels": 1988.0,
        "level_pool": 1.0,
        "held_out": 0.0,
        "slip": 0.1944,
        "see_through": 0.0,
        "step_cost": 0.003957,
    }
    last = tasks.make("grid/doorkey-5x5@test-63").physics
    assert (last["observation_noise"], last["levels"], last["level_pool"]) == (0.05504, 23010.0, 192.0)


@pytest.mark.parametrize("task_id", IDS)
def test_layouts_never_change(task_id: str) -> None:
    task = tasks.make(task_id)
    uniforms = torch.stack(torch.meshgrid(torch.arange(16) / 16, torch.arange(4) / 4, indexing="ij"), dim=-1)
    state = task.dynamics.reset(uniforms.view(1, -1, 2).double(), table(task))
    assert xxhash.xxh3_64(state.numpy().tobytes()).hexdigest() == GOLDEN[task_id]


def test_four_rooms_look_as_drawn() -> None:
    task = tasks.make("grid/fourrooms-9x9")
    state = task.dynamics.reset(torch.tensor([[[0.25, 0.5]]], dtype=torch.float64), table(task))
    assert isinstance(task.dynamics, FourRooms)
    text = picture(9, state[0, 0])
    assert text.count("G") == 1
    rows = text.split("\n")
    cross = [rows[4], "".join(row[4] for row in rows)]
    assert all(arm.strip("#") != "" for line in cross for arm in (line[:4], line[5:]))
