"""Filters run over corpora of any size: units of work, engines, and files that account for every row."""
