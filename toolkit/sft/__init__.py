"""Supervised fine-tuning: examples whose loss counts completions, and checkpoints chosen by reward."""
