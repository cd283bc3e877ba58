"""Run by test_joint_steps: one of the processes that train together."""

import json
import os
import pathlib

import torch
import torch.distributed

from services.trainer.sae.steps import factory
from tests.trainer import batches

STEPS = 8
NAMES = ("topk", "topk, wide", "batchtopk", "matryoshka")


def main(folder: pathlib.Path, rank: int, size: int) -> None:
    # They meet on this machine, whatever its name resolves to.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    reported = {}
    for name in NAMES:
        step = batches.step(factory.choose_step_class(batches.FAST[name]), batches.FAST[name])
        for batch in batches.activations(STEPS):
            step(batch.chunk(size)[rank])
        state = step.state()
        reported[name] = {
            "parameters": [float(value) for value in state.tensors["parameters.W_dec"].flatten()],
            "encoder": [float(value) for value in state.tensors["parameters.W_enc.T"].flatten()],
            "since_fired": state.tensors["since_fired"].tolist(),
            "firings": state.tensors["firings"].tolist(),
            "samples": state.numbers["firing_samples"],
            "threshold": float(state.tensors.get("topk_threshold", torch.zeros(()))),
        }
    (folder / f"{rank}.json").write_text(json.dumps(reported))
    torch.distributed.destroy_process_group()
