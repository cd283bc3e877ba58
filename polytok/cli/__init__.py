"""The command line `polytok`."""
