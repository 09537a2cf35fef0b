"""Reward models: losses over rankings, comparisons and ratings, and the trainer that learns from all three."""
