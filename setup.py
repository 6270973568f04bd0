"""The one thing that pyproject.toml cannot say: compiler flags that depend on the machine.

The native engine has a plain C interface and is loaded with ctypes. It is optional: without a C++ compiler the
installation succeeds, the torch engine is used, and ``hpbench doctor`` says so.
"""

from __future__ import annotations

import platform
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("hpbench/learners/cpp")

# No -ffast-math and no -march=native: a result must not depend on which x86-64-v3 machine built or ran the engine.
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-pthread"]
if platform.machine().lower() in {"x86_64", "amd64"}:
    FLAGS.append("-march=x86-64-v3")

sources = sorted(path.as_posix() for path in FOLDER.glob("*.cpp"))
native = Extension(
    "hpbench.learners._native",
    sources=sources,
    depends=sorted(path.as_posix() for path in FOLDER.glob("*.hpp")),
    language="c++",
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[native] if sources else [])
