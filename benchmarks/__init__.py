"""Every claim of speed, measured beside what a user would pick instead."""
