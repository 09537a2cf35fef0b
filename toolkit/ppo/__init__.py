"""PPO with four roles on one base model."""
