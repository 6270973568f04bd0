"""What all tests share: reproducible property tests, one torch thread per process."""

from __future__ import annotations

import torch
from hypothesis import settings

settings.register_profile("hpbench", derandomize=True, deadline=None, database=None)
settings.load_profile("hpbench")

torch.set_num_threads(1)
