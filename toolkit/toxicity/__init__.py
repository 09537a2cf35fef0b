"""Toxicity scorers that filters and evaluation share."""
