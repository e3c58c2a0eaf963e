"""Refrain's models in PyTorch, each as fast as it can be written there. `load` makes the one that a
model directory describes."""
from .decoder import load

__all__ = ["load"]
