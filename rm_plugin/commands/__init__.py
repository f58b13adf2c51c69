"""The command line and its recipes."""
