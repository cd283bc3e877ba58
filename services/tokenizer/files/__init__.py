"""Files of a tokenization: Arrow files, staged files, statistics."""
