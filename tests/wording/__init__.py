"""The texts that users read, in one golden file per surface."""
