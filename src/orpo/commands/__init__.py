"""The command line: one command, one function, no logic."""
