"""The slot policy against scoring whole strings, one at a time, without cache, padding or tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer

from agents.language import prompt
from agents.language.causal import CausalModel
from agents.language.layout import SlotLayout
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores, log_probability
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP
