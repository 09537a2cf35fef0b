"""Harm mitigations, each an option that is off by default and leaves a run as it was, bit for bit, while it is off."""
