"""The continuation scorer: many continuations of one prefix in one forward pass."""
