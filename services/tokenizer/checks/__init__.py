"""What becomes of a tokenization later: verified, encoded again in a sample, repaired."""
