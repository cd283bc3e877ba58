"""Contract of the extractor."""
