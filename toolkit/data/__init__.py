"""Rows: how they are read, written and checked."""
