"""Messages name the fix, and errors survive the way back from a worker process."""

from __future__ import annotations

import pickle

import pytest

from hpbench import errors
from hpbench.errors import (
    HPBenchError,
    InvalidAction,
    MissingBuild,
    MissingExtra,
    MissingLibrary,
    SimulatorCrash,
    UnknownName,
)


def test_unknown_name_suggests_the_near_misses() -> None:
    error = UnknownName("task", "classic/cartpol", ["classic/acrobot", "classic/cartpole", "classic/pendulum"])
    assert str(error).startswith("Unknown task 'classic/cartpol'. Did you mean 'classic/cartpole'")
    assert (error.kind, error.name) == ("task", "classic/cartpol")


def test_unknown_name_lists_what_is_known_when_nothing_is_near() -> None:
    assert (
        str(UnknownName("agent", "zzz", ["random", "cosine-decay"]))
        == "Unknown agent 'zzz'. Known: cosine-decay, random."
    )


def test_unknown_name_where_nothing_is_known() -> None:
    assert str(UnknownName("agent", "zzz", [])) == "Unknown agent 'zzz'. None is registered."


def test_unknown_name_cuts_a_long_list() -> None:
    assert str(UnknownName("task", "zzz", [f"a{i:02}" for i in range(20)])).endswith("a10, a11 and 8 more.")


def test_unknown_name_takes_names_that_are_not_strings() -> None:
    assert "Unknown option 3." in str(UnknownName("option", 3, ["a"]))


def test_missing_extra_gives_the_install_line() -> None:
    error = MissingExtra("stable_baselines3", "sb3")
    assert str(error) == "'stable_baselines3' is not installed. Run: pip install \"hpbench[sb3]\""
    assert isinstance(error, ImportError)


@pytest.mark.parametrize(
    "error",
    [
        UnknownName("task", "x", ["b", "a"]),
        MissingExtra("procgen", "procgen"),
        MissingLibrary("procgen", "libGL.so.1", "libgl1"),
        MissingBuild("deepmind_lab", "https://example.org/build.md"),
        SimulatorCrash("nethack/score", [3, None], "it was killed"),
        InvalidAction("NaN in the action"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: HPBenchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    "name", [n for n, e in vars(errors).items() if getattr(e, "__module__", "") == errors.__name__]
)
def test_every_error_is_one_of_ours_and_of_a_builtin_kind(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, HPBenchError)
    assert error is HPBenchError or issubclass(
        error, ValueError | KeyError | ImportError | ConnectionError | RuntimeError
    )
