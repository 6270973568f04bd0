"""The one thing that pyproject.toml cannot say: compiler flags that depend on the machine.

The native engine of the learners, and that of small language models, have a plain C interface and are loaded with
ctypes. They are optional: without a C++ compiler the installation succeeds, torch is used, and ``hpbench doctor`` says
so.
"""

from __future__ import annotations

import platform
from pathlib import Path

from setuptools import Extension, setup

LEARNERS, LANGUAGE = Path("hpbench/learners/cpp"), Path("agents/language/cpp")

# No -ffast-math and no -march=native: a result must not depend on which x86-64-v3 machine built or ran the engine.
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-pthread"]
if platform.machine().lower() in {"x86_64", "amd64"}:
    FLAGS.append("-march=x86-64-v3")


def native(name: str, folder: Path) -> list[Extension]:
    """The extension whose sources are in that folder; none if there are none."""
    sources = sorted(path.as_posix() for path in folder.glob("*.cpp"))
    extension = Extension(
        name,
        sources=sources,
        include_dirs=[LEARNERS.as_posix()],
        depends=sorted(path.as_posix() for place in (LEARNERS, folder) for path in place.glob("*.hpp")),
        language="c++",
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
        optional=True,
    )
    return [extension] if sources else []


setup(ext_modules=[*native("hpbench.learners._native", LEARNERS), *native("agents.language._native", LANGUAGE)])
