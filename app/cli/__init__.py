"""The command line, `eggs`."""
