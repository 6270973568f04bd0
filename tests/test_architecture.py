"""What holds for the package as a whole: layers, names, import cost, what is public, what is installed."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata, requires, version
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import agents
import hpbench
import leaderboard
from hpbench.registry import load_object

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hpbench", "agents", "leaderboard")

# Submodules of another distribution's package "agents"; ours must stay out of their way.
FOREIGN_MODULES = """
    agent run tool models memory result items guardrail handoffs tracing realtime voice usage util version retry prompts
    repl editor computer lifecycle logger exceptions decorators mcp sandbox testing extensions
"""
HEAVY = {
    *("torch", "scipy", "matplotlib", "pandas", "jinja2", "pydantic", "rich", "typer"),
    *("stable_baselines3", "pettingzoo", "transformers"),
}


def python(code: str) -> str:
    """Output of a fresh interpreter that finds the same packages as this one."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_layers() -> None:
    """The contracts in pyproject.toml, as ``lint-imports`` checks them."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_tests_run_against_what_is_installed() -> None:
    if "CI" not in os.environ:
        pytest.skip("not a clean test run: an editable installation is fine")
    for package in (hpbench, agents, leaderboard):
        assert package.__file__ is not None
        assert Path(package.__file__).resolve().parents[1] != ROOT


def test_importing_is_cheap() -> None:
    loaded = json.loads(python("import sys, json, hpbench; print(json.dumps(sorted(sys.modules)))"))
    assert HEAVY & set(loaded) == set()


def test_import_time() -> None:
    """Importing costs little beside Gymnasium's own import; the best of three, as machines are noisy."""
    code = (
        "import time, gymnasium.envs.registration\n"
        "start = time.perf_counter()\nimport hpbench\nprint(time.perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.5


def test_importing_registers_the_ids() -> None:
    code = "import gymnasium, hpbench; print([i for i in gymnasium.registry if i.startswith('HPControl-')])"
    assert "HPControl-Classic-v0" in python(code)
    code = "import gymnasium; print(gymnasium.make('hpbench:HPControl-Classic-v0', task='classic/cartpole').spec.id)"
    assert "HPControl-Classic-v0" in python(code)


def test_all_is_public_sorted_and_there() -> None:
    assert list(hpbench.__all__) == sorted(hpbench.__all__)
    for name in hpbench.__all__:
        assert getattr(hpbench, name) is not None
    assert set(hpbench.__all__) <= set(dir(hpbench))
    namespace: dict[str, object] = {}
    exec("from hpbench import *", namespace)
    assert set(hpbench.__all__) <= set(namespace)


def test_lazy_names_are_those_of_their_modules() -> None:
    for name, module in hpbench._ATTRIBUTES.items():
        assert getattr(hpbench, name) is load_object(f"{module}:{name}")
    assert set(hpbench.__all__) == {*hpbench._ATTRIBUTES, *hpbench._MODULES, "__version__"}


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_that_name'"):
        _ = hpbench.nothing_of_that_name


def test_version_is_the_same_everywhere() -> None:
    assert version("hpbench") == hpbench.__version__
    assert f"\nversion: {hpbench.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {hpbench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", ["agents", "leaderboard"])
def test_init_holds_a_docstring_only(package: str) -> None:
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


def test_no_agent_module_has_a_name_of_the_other_distribution() -> None:
    ours = {module.name for module in pkgutil.iter_modules(agents.__path__)}
    assert ours & set(FOREIGN_MODULES.split()) == set()
    assert "kl_adaptive" in ours


def test_every_entry_point_leads_to_an_object() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, rows in declared.items():
        installed = {entry.name: entry for entry in entry_points(group=group)}
        assert set(rows) <= set(installed)
        for name in rows:
            assert installed[name].load() is not None
            assert installed[name].module.partition(".")[0] in PACKAGES


def test_package_data_is_installed() -> None:
    assert files("hpbench").joinpath("py.typed").is_file()
    assert any(file.name == "quick-v0.toml" for file in files("hpbench.evaluation.suites").iterdir())
    assert any(file.name.endswith(".j2") for file in files("hpbench.evaluation.templates").iterdir())


def test_no_wheel_without_its_sources() -> None:
    """Every source file of the tree is in the installed package: nothing was left out of the wheel."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in {".py", ".toml", ".j2", ".css", ".cpp", ".hpp"} and "__pycache__" not in path.parts:
                inside = path.relative_to(ROOT / package)
                assert files(package).joinpath(*inside.parts).is_file(), path


def test_constraints_pin_what_the_distribution_needs() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert all(character not in line for line in lines for character in "/@+ ")
    names = {canonicalize_name(Requirement(line).name) for line in requires("hpbench") or []} - {"hpbench"}
    assert names - set(pins) == set()


def test_metadata() -> None:
    found = metadata("hpbench")
    assert found["Requires-Python"] == "<3.13,>=3.11"
    assert found["License-Expression"] == "MIT"
    assert set(found.get_all("Provides-Extra") or []) >= {"dev", "sb3", "test"}


def test_no_module_is_called_utils() -> None:
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert names & {"utils", "util", "helpers", "misc", "common"} == set()
