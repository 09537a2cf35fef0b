"""Ask a model and count."""
