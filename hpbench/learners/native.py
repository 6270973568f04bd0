"""x"""
from __future__ import annotations
def obstacle(task, hidden, device): return "not built"
