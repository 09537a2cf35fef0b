"""tunewell makes a language model helpful, honest and harmless on one consumer GPU."""

__version__ = "0.1.0"
