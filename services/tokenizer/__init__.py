"""Turns text into token ids and Arrow files."""
