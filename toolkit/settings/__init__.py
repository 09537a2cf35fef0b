"""Settings: typed trees read from YAML and the command line, all faults at once."""
