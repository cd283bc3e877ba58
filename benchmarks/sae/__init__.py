"""Training autoencoders: ours against SAELens's own trainer, on SynthSAEBench's generator (arXiv 2602.14687).

`make bench-sae` runs it and writes `benchmarks/results/sae.json`.
"""

import os

# Otherwise PyTorch's profiler writes to stderr; read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
