"""The input of encoding: the texts and conversations of raw shards, read, rendered, cleaned and hashed."""
