"""Stages, recipes and the command line: the only folder that sees all the others."""
