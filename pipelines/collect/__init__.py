"""The feedback page: people write demonstrations, rate and rank completions; everything lands in one database."""
