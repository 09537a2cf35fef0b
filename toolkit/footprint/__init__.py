"""How much memory training takes, worked out from a model's configuration without weights or a GPU."""
