"""Turns text into token ids and Arrow files.

    server      TokenizerService
    worker      the worker process, its child, and the tasks that a tokenization is made by
    checks      a tokenization later: verified, encoded again in a sample
    files       what is written and counted
    engines     texts to ids             text    raw shards to texts
    models      tokenizers, found and loaded
    sequences   ids to rows, over flat arrays

None imports one that stands above it; what stands below `worker` is a library that needs no server.
"""
