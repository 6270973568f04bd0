"""Collections: what is in them, that they can be resumed, and that their splits are apart."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.training.collect import CollectFailed, collect
from agents.training.plan import part_of, plan_groups, plan_shards
from agents.training.schema import SPLITS, TABLES, read_rows, shard_path
from agents.training.settings import read_settings
from agents.training.shard import ShardRun
from hpbench import tasks
from hpbench.control.env import HPControlEnv
from hpbench.control.tracks import shifted_task, starting_task
from hpbench.errors import InvalidConfiguration, UnknownName


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def all_rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    for split in SPLITS:
        yield from read_rows(folder, table, split)


class Batched:
    """A batch agent that reads text and writes text: halves the learning rate of members with an odd position."""

    observation = "text"
    action = "text"

    def reset_batch(self, specs: Any, seeds: Any) -> None:
        self.members = len(specs)
        assert all(spec.action_space.contains("{}") for spec in specs)

    def act_batch(self, observations: Any) -> list[str]:
        assert len(observations) == self.members
        assert all(text.startswith("hpbench-text/") for text in observations)
        return ['{"learning_rate": "x0.5"}' if m % 2 else "{}" for m in range(self.members)]

    def observe_batch(self, steps: Any) -> None:
        assert len(steps) == self.members


class Failing:
    action = "delta"

    def reset(self, spec: Any, seed: int) -> None:
        pass

    def act(self, observation: Any) -> Any:
        raise RuntimeError("no idea")


def test_continued_is_the_same_as_uninterrupted(collection: Path, make_settings: Any, tmp_path: Path) -> None:
    """By one shard first, then the rest in two processes; and after a kill in the middle of writing a shard."""
    folder = tmp_path / "continued"
    first = collect(make_settings(shards=1), folder)
    assert (first.shards, first.made) == (1, 1)
    done = collect(make_settings(), folder, processes=2)
    assert (done.shards, done.made) == (2, 1)
    assert contents(folder) == contents(collection)
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    for split in SPLITS:
        shard_path(killed, "episodes", split, 1).unlink()
    shard_path(killed, "states", "train", 1).write_bytes(b"half")
    (killed / "states" / ".half.tmp").write_bytes(b"half")
    assert len(read_rows(killed, "episodes", "train")) < len(read_rows(folder, "episodes", "train"))
    assert collect(make_settings(), killed).made == 1
    assert contents(killed) == contents(collection)
    assert collect(make_settings(), killed).made == 0
    assert contents(killed) == contents(collection)


def test_the_settings_file_makes_the_collection_again(collection: Path, make_settings: Any) -> None:
    assert read_settings(collection / "collect.json") == make_settings()


def test_the_card_says_what_is_there(collection: Path) -> None:
    card = (collection / "README.md").read_text()
    assert "2 of 2 shards" in card
    for table, columns in TABLES.items():
        rows = [len(read_rows(collection, table, split)) for split in SPLITS]
        assert f"| `{table}` | {rows[0]} | {rows[1]} |" in card
        assert [column.name for column in columns if f"| `{column.name}` | {column.type} |" not in card] == []
    assert "hot ones: learning_rate, entropy_coefficient" in card
    trained = {
        split: 2048 * len(read_rows(collection, "episodes", split))
        + sum(row["steps"] for row in read_rows(collection, "branches", split))
        for split in SPLITS
    }
    assert f"| training steps, branches included | {trained['train']:,} | {trained['validation']:,} |" in card


def test_every_task_and_run_is_in_one_split(collection: Path) -> None:
    seen: dict[str, dict[str, set[str]]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        episodes = read_rows(collection, "episodes", split)
        seen[split]["tasks"] = {row["task"] for row in episodes} | {row["shifted_to"] for row in episodes} - {""}
        seen[split]["runs"] = {row["episode"] for row in episodes}
        seen[split]["lineages"] = {f"{row['shard']}/{row['lineage']}" for row in episodes if row["lineage"] >= 0}
        assert {tasks.make(task).split for task in seen[split]["tasks"]} == {"train"}
        assert {part_of(task) for task in seen[split]["tasks"]} == {split}
        for table in ("states", "branches"):
            rows = read_rows(collection, table, split)
            assert {row["episode"] for row in rows} == seen[split]["runs"]
            assert {row["task"] for row in rows} <= seen[split]["tasks"]
            assert {row["copied_from"] for row in rows if table == "states"} <= seen[split]["runs"] | {""}
    for what in seen["train"]:
        assert seen["train"][what].isdisjoint(seen["validation"][what]), what


def test_no_plan_ever_leaks(make_settings: Any) -> None:
    """The same for many more shards, of which nothing but the layout is made."""
    settings = make_settings(shards=8, members=16, tracks={"default": 1, "random": 1, "shift": 2}, validation=0.25)
    tasks_of: dict[str, set[str]] = {split: set() for split in SPLITS}
    members = dict.fromkeys(SPLITS, 0)
    for shard in plan_shards(settings):
        for group in plan_groups(settings, shard, settings.behaviours):
            options = settings.options(shard.base, shard.learner, shard.track)
            task = starting_task(options, group.task_seed)
            tasks_of[group.split].add(task.id)
            if shard.track == "shift":
                tasks_of[group.split].add(shifted_task(task, "train", group.task_seed).id)
            members[group.split] += len(group.seeds)
            assert len(set(group.seeds)) == len(group.seeds)
    assert tasks_of["train"].isdisjoint(tasks_of["validation"])
    assert all(part_of(task) == split for split, ids in tasks_of.items() for task in ids)
    assert sum(members.values()) == 8 * 16
    assert 0.2 < members["validation"] / (8 * 16) < 0.4


def test_shares_tasks_and_tracks_are_met(make_settings: Any) -> None:
    settings = make_settings(
        shards=8, members=10, tracks={"default": 1, "random": 1}, behaviours={"static": 1, "schedule": 3, "pbt": 1}
    )
    shards = plan_shards(settings)
    assert {(shard.base, shard.track) for shard in shards} == {
        (base, track) for base in ("classic/cartpole", "classic/acrobot") for track in ("default", "random")
    }
    counts = dict.fromkeys(settings.behaviours, 0)
    for shard in shards:
        for group in plan_groups(settings, shard, settings.behaviours):
            counts[group.behaviour] += len(group.seeds)
            assert len(group.seeds) == 1 or group.behaviour == "pbt"
            assert len(group.seeds) <= settings.lineages.size
    assert counts == {"static": 16, "schedule": 48, "pbt": 16}


def test_states_tell_what_happened(collection: Path) -> None:
    episodes = {row["episode"]: row for row in all_rows(collection, "episodes")}
    assert len(episodes) == 12
    by_episode: dict[str, list[dict[str, Any]]] = {}
    for row in all_rows(collection, "states"):
        by_episode.setdefault(row["episode"], []).append(row)
    assert by_episode.keys() == episodes.keys()
    edits = 0
    for episode, rows in by_episode.items():
        assert [row["decision"] for row in rows] == list(range(len(rows)))
        assert [row["last"] for row in rows] == [False] * (len(rows) - 1) + [True]
        scores = [rows[0]["score"], *(row["score_after"] for row in rows)]
        assert scores == episodes[episode]["scores"]
        assert rows[0]["values"] == episodes[episode]["values"]
        for row, following in itertools.pairwise(rows):
            assert following["values"] == row["values_after"]
            assert following["score"] == row["score_after"]
        for row in rows:
            assert row["reward"] == row["score_after"] - row["score"]
            assert row["text"].startswith("hpbench-text/")
            assert f"task {row['task']} learner ppo" in row["text"]
            edits += row["values"] != row["values_after"]
            if row["behaviour"] == "schedule":
                assert row["exact"]
    assert edits > 0


def test_a_run_is_what_the_environment_makes_of_it(collection: Path, make_settings: Any) -> None:
    """The stored observations and scores of a member are those of ``gym.make`` with the same seed and updates."""
    episode = next(
        row
        for row in all_rows(collection, "episodes")
        if row["behaviour"] == "schedule" and row["seed"] == row["task_seed"]
    )
    rows = [row for row in all_rows(collection, "states") if row["episode"] == episode["episode"]]
    options = make_settings().options(episode["base"], "ppo", episode["track"]).to_dict()
    env = HPControlEnv(**(options | {"action": "discrete"}))
    observation, info = env.reset(seed=episode["seed"])
    assert info["hpbench"]["task"] == episode["task"]
    for row in rows:
        assert observation["text"] == row["text"]
        np.testing.assert_array_equal(observation["vector"], np.array(row["vector"], dtype=np.float32))
        observation, _, _, _, info = env.step(np.array(row["choices"]))
        assert info["hpbench"]["score"] == row["score_after"]
    assert info["hpbench"]["meta_score"] == episode["meta_score"]


def test_branches_in_the_runs_own_continuation_are_what_the_run_does(collection: Path) -> None:
    states = {(row["episode"], row["decision"]): row for row in all_rows(collection, "states")}
    kept = updated = 0
    for row in all_rows(collection, "branches"):
        state = states[row["episode"], row["decision"]]
        if state["copied_from"]:
            continue
        for values, scores in zip(row["values"], row["scores"], strict=True):
            if values == state["values_after"]:
                assert np.float32(scores[0][0]) == np.float32(state["score_after"])
                kept += state["values"] == values
                updated += state["values"] != values
    assert kept > 0
    assert updated > 0


def test_branch_sets_are_whole(collection: Path) -> None:
    rows = [
        (row, seeds)
        for split, seeds in (("train", 2), ("validation", 3))
        for row in read_rows(collection, "branches", split)
    ]
    for row, seeds in rows:
        ahead = min(2, row["decisions"] - row["decision"])
        for name in ("scores", "errors", "training_scores"):
            assert np.array(row[name]).shape == (4, seeds, ahead)
        assert row["origins"][0] == "keep"
        assert set(row["choices"][0]) == {3}
        assert len({tuple(values) for values in row["values"]}) == 4
        assert row["steps"] == 4 * seeds * ahead * 512 or np.any(row["diverged"])


def test_branches_do_not_depend_on_who_trains_beside_them(make_settings: Any) -> None:
    shard = plan_shards(make_settings())[0]
    narrow, wide = (
        ShardRun(make_settings(members=3, branches={"width": width}), shard).collect() for width in (1, 4096)
    )
    assert narrow["train"]["branches"] == wide["train"]["branches"]
    assert narrow["validation"]["branches"] == wide["validation"]["branches"]


def test_lineages_copy_inside_themselves(make_settings: Any) -> None:
    settings = make_settings(
        behaviours={"pbt": 1}, members=8, lineages={"size": 4}, steps=6144, decisions=6, branches={"states": 0}
    )
    tables = ShardRun(settings, plan_shards(settings)[1]).collect()
    lineages = {row["episode"]: row["lineage"] for split in SPLITS for row in tables[split]["episodes"]}
    assert sorted(lineages.values()) == [0] * 4 + [1] * 4
    copied = [row for split in SPLITS for row in tables[split]["states"] if row["copied_from"]]
    assert copied
    assert all(lineages[row["episode"]] == lineages[row["copied_from"]] for row in copied)
    assert all(not tables[split]["branches"] for split in SPLITS)
    for split in SPLITS:
        assert len({row["task"] for row in tables[split]["episodes"]}) <= 1


def test_any_agent_joins_by_its_import_path(make_settings: Any) -> None:
    settings = make_settings(behaviours={f"agent:{__name__}:Batched": 1.0}, branches={"states": 0})
    tables = ShardRun(settings, plan_shards(settings)[0]).collect()
    rows = sorted((row for split in SPLITS for row in tables[split]["states"]), key=lambda row: row["episode"])
    factors = {row["episode"]: row["values_after"][0] / row["values"][0] for row in rows if row["decision"] == 0}
    assert sorted(round(factor, 3) for factor in factors.values()) == [0.5] * 3 + [1.0] * 3


def test_what_cannot_steer_a_learner_is_left_out(make_settings: Any) -> None:
    settings = make_settings(
        tasks=["classic/cartpole"], learners=["dqn"], behaviours={"agent:kl-adaptive": 5, "static": 1}
    )
    run = ShardRun(settings, plan_shards(settings)[0])
    assert {group.behaviour for group in run.groups} == {"static"}


def test_a_failing_behaviour_costs_its_shards_only(make_settings: Any, tmp_path: Path) -> None:
    settings = make_settings(shards=2, behaviours={f"agent:{__name__}:Failing": 1.0})
    with pytest.raises(CollectFailed, match=r"2 of 2 shards failed(?s:.*)RuntimeError: no idea"):
        collect(settings, tmp_path)
    assert "0 of 2 shards" in (tmp_path / "README.md").read_text()


def test_folders_of_other_things_are_left_alone(collection: Path, make_settings: Any, tmp_path: Path) -> None:
    before = contents(collection)
    with pytest.raises(InvalidConfiguration, match=r"other settings \(seed\)"):
        collect(make_settings(seed=4), collection)
    assert contents(collection) == before
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidConfiguration, match="neither empty nor a collection"):
        collect(make_settings(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": ["classic/cartpole@train-0"]}, InvalidConfiguration, "is a variant: name the task"),
        ({"tasks": ["classic/cartpol"]}, UnknownName, "Did you mean 'classic/cartpole'"),
        ({"tasks": ["clasic"]}, UnknownName, "Did you mean 'classic'"),
        ({"learners": ["pp"]}, UnknownName, "Did you mean 'ppo'"),
        ({"tasks": ["classic/pendulum"], "learners": ["dqn"]}, InvalidConfiguration, "can learn any of the tasks"),
        ({"tracks": {"randm": 1}}, UnknownName, "Did you mean 'random'"),
        ({"behaviours": {"shedule": 1}}, UnknownName, "Did you mean 'schedule'"),
        ({"behaviours": {"agent:kl-adaptiv": 1}}, UnknownName, "Did you mean 'kl-adaptive'"),
        ({"behaviours": {"agent:branch-oracle": 1}}, InvalidConfiguration, "looks ahead"),
        ({"behaviours": {"static": 0}}, InvalidConfiguration, "behaviours.static"),
        ({"branches": {"update": 3}}, UnknownName, "Did you mean 'updates'"),
        ({"branches": {"updates": 1}}, InvalidConfiguration, "branches.updates"),
        ({"member": 3}, UnknownName, "Did you mean 'members'"),
        ({"validation": 0.9}, InvalidConfiguration, "validation"),
    ],
)
def test_mistakes_in_settings(
    make_settings: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_settings(**changes)


def test_the_settings_of_the_package_are_whole() -> None:
    settings = read_settings()
    assert {base.partition("/")[0] for base, _ in settings.combinations()} == {"classic", "grid"}
    assert settings.branches.updates >= 8
    assert len(plan_shards(settings)) == settings.shards
