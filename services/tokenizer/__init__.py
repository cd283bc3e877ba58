"""Turns text into token ids and Arrow files.

Entry points, and the service that answers beside them, are here; the packages say what they are for:

    checks      what becomes of a tokenization later: verified, sampled again, repaired
    stages      the tasks that make one
    files       what is written and counted
    engines     texts to ids             text    raw shards to texts
    models      tokenizers, found and loaded
    rows        ids to rows, over flat arrays

None imports one that stands above it.
"""
