"""Prompts of three kinds become the sets that SFT, the reward model and PPO train on."""
