"""The base model with its adapters, and generation from it."""
