"""The searches for HyperPrompt's opponents, and the page of its results from the committed records."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hpbench import run
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.suite import load_suite, parse_suite

FOLDER = Path(__file__).parents[2] / "reproduce" / "hyperprompt"
SMALL = {"decisions": 2, "steps": 1024, "evaluation_episodes": 2}
CARTPOLE = ("classic/cartpole",)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reproduce/ is part of the source checkout only")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("tune", monkeypatch)


def keys(path: Path) -> list[str]:
    return [key for line in path.read_text().splitlines() for key in json.loads(line)]


def test_the_kl_search_counts_all_places_alike_and_goes_on(tune: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "kl.jsonl"
    found = tune.search_kl(tune.Played(path, 1, False), CARTPOLE, seeds=1, small=SMALL)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    means = np.mean([scores for row in rows for scores in row.values()], axis=0)
    assert [row["score"] for row in found["settings"]] == pytest.approx(means.tolist())
    assert found["best"]["score"] == max(row["score"] for row in found["settings"])
    assert sorted(keys(path)) == [f"classic/cartpole {track} 0" for track in ("default", "random", "shift")]
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # in the middle of a line
    kept = path.read_text().splitlines()[:-1]
    assert tune.search_kl(tune.Played(path, 1, False), CARTPOLE, seeds=1, small=SMALL) == found
    assert path.read_text().splitlines()[: len(kept)] == kept
    assert sorted(keys(path)) == sorted(key for row in rows for key in row)


def test_the_best_static_setting_is_judged_on_other_variants(tune: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "static.jsonl"
    found = tune.search_static(tune.Played(path, 1, False), CARTPOLE, count=6, kept=2, seeds=2, small=SMALL)
    scores = {key: value for line in path.read_text().splitlines() for key, value in json.loads(line).items()}
    first = np.array(scores.pop("classic/cartpole 0 0+6 of 6"))
    second = np.mean(list(scores.values()), axis=0)
    best = np.argsort(-first, kind="stable")[:2].tolist()
    winner = found["tasks"]["classic/cartpole"]
    assert winner["setting"] == best[int(second.argmax())]
    assert winner["score"] == pytest.approx(second.max())
    assert winner["values"] == tune.draw_settings(6, 0)[winner["setting"]]


def test_random_search_is_tested_on_the_variant_with_another_seed(tune: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    found = tune.search_random(tune.Played(path, 1, False), CARTPOLE, seeds=[100], runs=(1, 3), small=SMALL)
    scores = {key: value for line in path.read_text().splitlines() for key, value in json.loads(line).items()}
    tried = scores["try classic/cartpole 100"]
    settings = tune.draw_settings(3, 100, 1)
    suite = {
        "env": "HPControl-Classic-v0", "tasks": ["classic/cartpole@test"], "tracks": ["default"], "learner": "ppo",
        "tier": "small", "seeds": [100], **SMALL,
    }  # fmt: skip
    for n, index in (("1", 0), ("3", int(np.argmax(tried)))):
        agent = sys.modules["opponents"].Static(settings[index])
        text = json.dumps({"format": 1, "name": "test-v0", "rows": [suite]})
        results = run(agent, parse_suite(text, "test", "json"), tmp_path / n, processes=1, progress=False, device="cpu")
        (score,) = results.values("static", results.suite.rows[0]).tolist()
        assert found["scores"]["classic/cartpole"][n] == [score]


def test_a_job_that_fails_says_which(tune: ModuleType, tmp_path: Path) -> None:
    job = tune.Job("bad", "classic/cartpole", "default", [("static", {"learning_rate": 0.1})], [0], {"steps": 1})
    with pytest.raises(RuntimeError, match="bad: "):
        tune.Played(tmp_path / "x.jsonl", 1, False)([job])


def test_opponents_with_settings_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opponents = load("opponents", monkeypatch)
    row: dict[str, Any] = {
        "env": "HPControl-Classic-v0", "tasks": ["classic/acrobot@test"], "tracks": ["random"], "learner": "ppo",
        "tier": "small", "seeds": [100, 101], **SMALL,
    }  # fmt: skip
    suite = parse_suite(json.dumps({"format": 1, "name": "test-v0", "rows": [row]}), "test", "json")
    agents = [opponents.BestStatic(), opponents.TunedKL()]
    results = run(agents, suite, tmp_path, processes=1, progress=False)
    found = json.loads((FOLDER / "static.json").read_text())["tasks"]["classic/acrobot"]["values"]
    for member in results.record("static-512", suite.rows[0]).members:
        assert {name: values[-1] for name, values in member.values.items() if name in found} == pytest.approx(
            found, rel=1e-3
        )
    assert opponents.TunedKL().target == json.loads((FOLDER / "kl.json").read_text())["best"]["target"]


def test_the_page_follows_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    report = load("report", monkeypatch)
    assert report.page() == (FOLDER / "results.md").read_text()


def test_records_are_packed_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tarfile

    report = load("report", monkeypatch)
    row: dict[str, Any] = {
        "env": "HPControl-Classic-v0", "tasks": ["classic/cartpole"], "tracks": ["default"], "learner": "ppo",
        "tier": "small", "seeds": [0, 1], **SMALL,
    }  # fmt: skip
    suite = parse_suite(json.dumps({"format": 1, "name": "test-v0", "rows": [row]}), "test", "json")
    results = run("library-default", suite, tmp_path / "out", processes=1, progress=False)
    monkeypatch.setattr(report, "RECORDS", tmp_path / "packed")
    report.pack(tmp_path / "out")
    first = (tmp_path / "packed" / "test-v0.tar.xz").read_bytes()
    report.pack(tmp_path / "out")
    assert (tmp_path / "packed" / "test-v0.tar.xz").read_bytes() == first
    with tarfile.open(tmp_path / "packed" / "test-v0.tar.xz") as archive:
        archive.extractall(tmp_path / "back", filter="data")
    back = {path.relative_to(tmp_path / "back"): path.read_bytes() for path in (tmp_path / "back").rglob("*.json")}
    there = {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.json")}
    assert back == there
    assert results.suite.name == "test-v0"


def test_populations_and_the_oracle_stand_beside_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = load("report", monkeypatch)
    row: dict[str, Any] = {
        "env": "HPControl-Classic-v0", "tasks": ["classic/cartpole@test"], "tracks": ["default"], "learner": "ppo",
        "tier": "small", **SMALL,
    }  # fmt: skip

    def played(name: str, agent: str, *seeds: list[int]) -> Any:
        text = json.dumps({"format": 1, "name": name, "title": name, "rows": [row | {"seeds": each} for each in seeds]})
        return run(agent, parse_suite(text, "test", "json"), tmp_path, processes=1, progress=False, privileged=True)

    whole = played("test-v0", "library-default", [100, 101, 102])
    oracle = played("oracle-v0", "branch-oracle", [100], [102])
    (scores,) = whole.strata("library-default")
    assert report._few(whole, "library-default", oracle, ["default"])[0].estimate == pytest.approx(
        (scores[0] + scores[2]) / 2
    )
    page = report.bound(oracle, whole)
    assert page.startswith("## oracle-v0")
    assert [line.split(" | ")[0] for line in page.splitlines()[4:]] == ["| branch-oracle", "| library-default"]
    monkeypatch.setattr(report, "MODEL", "branch-oracle")
    table = report.by_row(oracle).splitlines()
    assert table[0] == "## oracle-v0: mean meta-score"
    assert len(table) == 6
    assert table[-1].startswith("| classic/cartpole@test | ppo | default | ")
    assert table[-1].endswith("| - |")  # library-default has not played these rows
    (tmp_path / "populations.jsonl").write_text("")
    assert report.populations(tmp_path / "populations.jsonl", whole).startswith("## Populations")


def test_the_controller_is_paid_in_meta_score(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = load("controller", monkeypatch)
    env = controller.make("classic/cartpole", "random", {"decisions": 3, "steps": 3072, "evaluation_episodes": 2})()
    env.reset(seed=3)
    before, rewards, over = env._score, [], False
    while not over:
        _, reward, over, truncated, info = env.step(env.action_space.sample())
        rewards.append(reward)
        assert not truncated
    assert len(rewards) == 3
    assert sum(rewards) == pytest.approx(info["meta_score"] - 0.5 * before)


def test_the_controller_is_trained_goes_on_and_plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="needs the extra sb3")
    controller = load("controller", monkeypatch)
    monkeypatch.setattr(controller, "PPO_SETTINGS", {**controller.PPO_SETTINGS, "batch_size": 30})
    with pytest.raises(InvalidConfiguration, match="train it first"):
        controller.Controller(tmp_path / "none.npz")
    first, lines = controller.train(tmp_path, 1.0, copies=1, decisions=30, tasks=CARTPOLE, small=SMALL)
    assert [line["decisions"] for line in lines] == [30]
    second, lines = controller.train(tmp_path, 1.0, copies=1, decisions=60, tasks=CARTPOLE, small=SMALL)
    assert [line["decisions"] for line in lines] == [30, 60]
    assert all(line["meta_episodes"] == 15 for line in lines)  # three environments, meta-episodes of two decisions
    assert not np.array_equal(first.layers[0][0], second.layers[0][0])
    second.save(tmp_path / "controller.npz")
    kept = controller.Controller(tmp_path / "controller.npz")
    seen = np.linspace(-1.0, 1.0, kept.layers[0][0].shape[1], dtype=np.float32)
    assert np.array_equal(kept.act(seen), second.act(seen))


def test_the_oracle_has_rows_of_the_held_out_suite() -> None:
    oracle, held_out = (load_suite(FOLDER / f"{name}.toml") for name in ("oracle", "held-out"))
    places = {(row.task, row.track): row for row in held_out.rows}
    assert {(row.task, row.track) for row in oracle.rows} == set(places)
    for row in oracle.rows:
        same = places[row.task, row.track]
        assert set(row.seeds) < set(same.seeds)
        assert (row.learner, row.tier, row.overrides) == (same.learner, same.tier, same.overrides)
