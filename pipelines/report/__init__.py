"""The report: one self-contained page drawn from plain numbers."""
