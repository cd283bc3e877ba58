"""A corpus, and a small language model with weights that it is tokenized for."""

import pathlib

import torch
import transformers

from tests.client import samples

HOOK = "blocks.1.hook_resid_post"
EARLIER = "blocks.0.hook_resid_post"
D_MODEL = 32
TEXTS = [
    f"Document {number} tells of the sea, the wind and {number * 7} ships that sail to harbour {number % 13} in spring."
    for number in range(600)
]


def write_model(folder: pathlib.Path) -> pathlib.Path:
    """Return a model folder: tokenizer, configuration, and weights from a fixed seed."""
    samples.write_model(folder)
    configuration = transformers.AutoConfig.from_pretrained(folder)
    configuration.bos_token_id = configuration.eos_token_id = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(configuration)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def sae(hook: str = HOOK, architecture: str = "topk", **fields: object) -> dict[str, object]:
    """Return an autoencoder that trains within seconds."""
    given: dict[str, object] = {"hook": hook, "architecture": architecture, "d_sae": 64}
    return given | ({"k": 8} if "topk" in architecture else {}) | fields
