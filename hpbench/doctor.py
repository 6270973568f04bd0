"""What ``hpbench doctor`` checks: is everything here, does it fit, and what to do if not."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
    version,
)
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

import hpbench

Status = Literal["ok", "note", "problem"]

DISTRIBUTION = "hpbench"
AGENTS_PACKAGE = "agents"
_FOR_DEVELOPERS = {"dev", "test"}
_REINSTALL = "install hpbench again from its source folder: pip install --force-reinstall --no-deps ."


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Args:
        name: what was looked at.
        status: ``ok``; ``note``: works, but less than it could; ``problem``: something will fail or mislead.
        detail: what was found.
        fix: what to do about it.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def run_checks() -> list[Check]:
    """All checks, in the order in which they are shown."""
    checks = [check_python(), check_installation(), *check_requirements()]
    if importlib.util.find_spec("torch") is not None:
        checks += [check_native_engine(), check_gpu()]
    return [*checks, check_agents_package(), *check_extras()]


def check_python() -> Check:
    """Interpreter and platform."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Check("python", "ok", found)
    return Check("python", "problem", found, "Use Python 3.11 or 3.12.")


def check_installation() -> Check:
    """Whether what is imported is what pip installed."""
    folder = Path(hpbench.__file__).parent
    where = f"{hpbench.__version__} in {folder}"
    try:
        installed = version(DISTRIBUTION)
    except PackageNotFoundError:
        fix = 'Agents are found by their entry points, so install the package: pip install -e "." in its folder.'
        return Check("hpbench", "problem", f"{where}, not installed", fix)
    if installed != hpbench.__version__:
        fix = "Leave the source folder, or install it again: pip install ."
        return Check("hpbench", "problem", f"{where}, but {installed} is installed", fix)
    return Check("hpbench", "ok", where)


def check_requirements() -> list[Check]:
    """Each package that hpbench cannot do without."""
    checks = []
    for requirement in _requirements():
        reason = _unmet(requirement)
        if reason:
            fix = f'pip install "{requirement.name}{requirement.specifier}"'
            checks.append(Check(requirement.name, "problem", reason, fix))
        else:
            checks.append(Check(requirement.name, "ok", version(requirement.name)))
    return checks


def check_native_engine() -> Check:
    """Whether the fast engine of the CPU works, and whether it could be built."""
    from hpbench.learners import native

    compiler = find_compiler()
    obstacle = native.unavailable()
    if obstacle is None:
        return Check(
            "native engine", "ok", f"{native.library_path()}; compiler: {compiler or 'none, and none is needed now'}"
        )
    detail = f"not available: {obstacle}. The torch engine is used: the same learner, but slower."
    if native.library_path() is not None:
        return Check("native engine", "note", detail)
    if compiler is None:
        fix = f"Install a C++ compiler (Debian, Ubuntu: apt install g++), then {_REINSTALL}"
    else:
        fix = f"There is a compiler, {compiler}. Add -v to see why it fails, and {_REINSTALL}"
    return Check("native engine", "note", detail, fix)


def find_compiler() -> str | None:
    """Path of the C++ compiler that the installation would use."""
    named = os.environ.get("CXX", "").split()
    return next((path for name in [*named[:1], "c++", "g++", "clang++"] if (path := shutil.which(name))), None)


def check_gpu() -> Check:
    """What torch sees."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("gpu", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    reason = "this torch is built for the CPU" if torch.version.cuda is None else "torch finds no CUDA device"
    return Check("gpu", "ok", f"none, everything runs on the CPU ({reason})")


def check_agents_package() -> Check:
    """Whether ``import agents`` finds the agents of this distribution and nobody else's.

    The name is also used by another well-known distribution, and pip overwrites files without a word.
    """
    name = "agents package"
    owners = sorted({owner for owner in packages_distributions().get(AGENTS_PACKAGE, []) if owner != DISTRIBUTION})
    if owners:
        fix = f"Use one virtual environment for {DISTRIBUTION} and another one for {' and '.join(owners)}."
        return Check(name, "problem", f"the package {AGENTS_PACKAGE!r} is also installed by {', '.join(owners)}", fix)
    spec = importlib.util.find_spec(AGENTS_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        return Check(name, "problem", f"import {AGENTS_PACKAGE} finds no package", f"To mend it, {_REINSTALL}")
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    missing = [module for module in _agent_modules() if not any((f / _file_of(module)).is_file() for f in folders)]
    if missing:
        detail = f"import {AGENTS_PACKAGE} finds {folders[0] if folders else 'nothing'}, without {', '.join(missing)}"
        return Check(name, "problem", detail, "Run from another folder, or take that folder off PYTHONPATH.")
    if spec.origin is None or not _is_docstring_only(Path(spec.origin)):
        detail = f"{folders[0]}/__init__.py is missing, or has been overwritten by another package of that name"
        return Check(name, "problem", detail, f"To mend it, {_REINSTALL}")
    return Check(name, "ok", str(folders[0]))


def check_extras() -> list[Check]:
    """Optional dependencies: installed, or the line that installs them."""
    found = _distribution()
    extras = found.metadata.get_all("Provides-Extra") or [] if found else []
    checks = []
    for extra in sorted(set(extras) - _FOR_DEVELOPERS):
        needed = _requirements(extra)
        if any(_unmet(requirement) for requirement in needed):
            names = ", ".join(requirement.name for requirement in needed)
            fix = f'If you need it: pip install "{DISTRIBUTION}[{extra}]"'
            checks.append(Check(f"extra {extra}", "note", f"not installed ({names})", fix))
        else:
            versions = ", ".join(f"{requirement.name} {version(requirement.name)}" for requirement in needed)
            checks.append(Check(f"extra {extra}", "ok", versions))
    return checks


def _distribution() -> Distribution | None:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None


def _requirements(extra: str = "") -> list[Requirement]:
    """What an extra adds; without one, the packages that are always needed."""
    found = _distribution()
    lines = (found.requires or []) if found else []
    return [requirement for requirement in map(Requirement, lines) if _belongs_to(requirement, extra)]


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    if requirement.marker.evaluate({"extra": ""}):
        return not extra
    return requirement.marker.evaluate({"extra": extra})


def _unmet(requirement: Requirement) -> str:
    """Why a requirement is not met; empty if it is."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{found}, needs {requirement.specifier}"


def _agent_modules() -> Iterable[str]:
    """Modules of the agents package that our own entry points name, of whatever group."""
    prefix, found = AGENTS_PACKAGE + ".", _distribution()
    modules = {entry.module for entry in found.entry_points} if found else set()
    return sorted(module.removeprefix(prefix) for module in modules if module.startswith(prefix))


def _file_of(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _is_docstring_only(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
