"""From documents' ids to the rows of a file: offset arithmetic over flat arrays. Knows no text, tokenizer or file."""
