"""Version 1, generated from protos/."""
