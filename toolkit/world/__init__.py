"""The embedded world: plain English written for this project, with hidden labels."""

from .world import LABELS, TRICKS, Sizes, World, build_world

__all__ = ["LABELS", "TRICKS", "Sizes", "World", "build_world"]
