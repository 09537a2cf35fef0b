"""The embedded world: plain English written for this project, with hidden labels."""

from .rankings import build_rankings
from .world import LABELS, TRICKS, Sizes, World, build_world

__all__ = ["LABELS", "TRICKS", "Sizes", "World", "build_rankings", "build_world"]
