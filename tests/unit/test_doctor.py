"""The doctor finds what is wrong, says what to do, and finds nothing wrong here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from hpbench import doctor
from hpbench.cli import main
from hpbench.doctor import Check, run_checks
from hpbench.learners import native

OWN = '"""A docstring."""\n'


def pretend_agents(
    monkeypatch: pytest.MonkeyPatch, folder: Path | None, owners: Mapping[str, list[str]] | None = None
) -> Check:
    """The check of the agents package, if ``import agents`` found this folder."""

    def find(name: str) -> Any:
        if name != "agents":
            return find_spec(name)
        if folder is None:
            return None
        return SimpleNamespace(origin=str(folder / "__init__.py"), submodule_search_locations=[str(folder)])

    monkeypatch.setattr(doctor, "packages_distributions", lambda: owners or {"agents": ["hpbench", "hpbench"]})
    monkeypatch.setattr(doctor.importlib.util, "find_spec", find)
    return doctor.check_agents_package()


def own_folder(tmp_path: Path, init: str = OWN) -> Path:
    for module in doctor._agent_modules():
        path = tmp_path / doctor._file_of(module)
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "__init__.py").write_text(init)
    return tmp_path


def test_nothing_is_wrong_here() -> None:
    checks = run_checks()
    assert [check for check in checks if check.status == "problem"] == []
    names = [check.name for check in checks]
    expected = {
        "python",
        "hpbench",
        "torch",
        "gymnasium",
        "numpy",
        "native engine",
        "gpu",
        "agents package",
        "extra sb3",
    }
    assert expected <= set(names)
    assert len(names) == len(set(names))
    assert not {"extra dev", "extra test", "pytest", "ruff"} & set(names)


def test_every_note_and_problem_that_can_be_mended_says_how() -> None:
    assert all(check.fix for check in run_checks() if check.status != "ok" and check.name != "native engine")


def test_agents_package_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretend_agents(monkeypatch, own_folder(tmp_path)) == Check("agents package", "ok", str(tmp_path))


def test_another_distribution_with_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"agents": ["hpbench", "openai-agents"]}
    check = pretend_agents(monkeypatch, own_folder(tmp_path), owners)
    assert check.status == "problem"
    assert "also installed by openai-agents" in check.detail
    assert "virtual environment" in check.fix


def test_a_folder_that_hides_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text(OWN)
    check = pretend_agents(monkeypatch, tmp_path)
    assert check.status == "problem"
    assert str(tmp_path) in check.detail
    assert "kl_adaptive" in check.detail


@pytest.mark.parametrize("module", ["decay", "pbt", "language.schemes", "training.commands"])
def test_an_agent_that_is_missing(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any kind: agents of one run and of the population game, language models, commands that train them."""
    folder = own_folder(tmp_path)
    (folder / doctor._file_of(module)).unlink()
    check = pretend_agents(monkeypatch, folder)
    assert check.status == "problem"
    assert check.detail.endswith(f"without {module}")


def test_an_overwritten_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = pretend_agents(monkeypatch, own_folder(tmp_path, OWN + "from .agent import Agent\n"))
    assert check.status == "problem"
    assert "overwritten" in check.detail


def test_no_agents_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretend_agents(monkeypatch, None).status == "problem"


def test_requirements_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Requirement("torch>=99"), Requirement("no-such-package-here>=1"), Requirement("numpy>=1")]
    monkeypatch.setattr(doctor, "_requirements", lambda extra="": wanted)
    old, missing, fine = doctor.check_requirements()
    assert (old.status, missing.status, fine.status) == ("problem", "problem", "ok")
    assert "needs >=99" in old.detail
    assert missing.detail == "not installed"
    assert missing.fix == 'pip install "no-such-package-here>=1"'


def test_a_missing_extra_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = {"": [], "sb3": [Requirement("no-such-package-here>=1")]}
    monkeypatch.setattr(doctor, "_requirements", lambda extra="": requirements.get(extra, []))
    check = next(check for check in doctor.check_extras() if check.name == "extra sb3")
    assert check.status == "note"
    assert 'pip install "hpbench[sb3]"' in check.fix


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", not_found)
    assert doctor.check_installation().status == "problem"
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    assert "0.0.1 is installed" in doctor.check_installation().detail


def test_python_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert doctor.check_python().status == "problem"


@pytest.mark.parametrize(
    ("compiler", "advice"), [(None, "Install a C++ compiler"), ("/usr/bin/c++", "There is a compiler")]
)
def test_native_engine_that_was_not_built(compiler: str | None, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "unavailable", lambda: "it was not built")
    monkeypatch.setattr(native, "library_path", lambda: None)
    monkeypatch.setattr(doctor, "find_compiler", lambda: compiler)
    check = doctor.check_native_engine()
    assert check.status == "note"
    assert "torch engine is used" in check.detail
    assert advice in check.fix


def test_find_compiler_heeds_cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -stdlib=x")
    assert doctor.find_compiler() == str(compiler)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_compiler() is None


@pytest.mark.parametrize(("status", "code", "last"), [("note", 0, "All is well."), ("problem", 1, "1 problem.")])
def test_exit_code(
    status: doctor.Status, code: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [Check("thing", status, "is [broken]", "Mend it.")])
    with pytest.raises(SystemExit) as exit_:
        main(["doctor"])
    assert exit_.value.code == code
    printed = capsys.readouterr().out
    assert "thing: is [broken]" in printed
    assert "Mend it." in printed
    assert printed.splitlines()[-1] == last
