"""From a corpus to a sparse autoencoder in SAELens.

Needs a running stack (`polytok up`) and a folder with a model's weights and tokenizer:

    python examples/corpus_to_sae.py corpus.jsonl ./gpt2 blocks.6.hook_resid_post
"""

import sys
import warnings

import torch

import polytok


def main(corpus: str, model: str, hook: str, samples: int = 500_000) -> None:
    """Import the corpus, tokenize it for the model, train on the hook, and open the autoencoder."""
    with polytok.Client() as client:
        # Create calls are idempotent: repeating one returns what exists.
        client.datasets.create("corpus", files=corpus)
        client.models.create("model", model)
        client.datasets.wait("corpus")
        client.models.wait("model")
        client.tokenizations.create("corpus", "model")
        client.tokenizations.wait("corpus", "model")

        sae = {"hook": hook, "architecture": "batchtopk", "d_sae": 1024, "k": 16, "lr": 1e-3}
        training = client.trainings.create("corpus", "model", saes=[sae], total_samples=samples, batch_size=1024)
        for update in client.trainings.follow(training):
            for row in update.metrics:
                if row.step % 50 == 0:
                    figures = row.training
                    print(f"step {row.step}: loss {figures.loss:.4g}, L0 {figures.l0:.1f}, dead {figures.dead_latents}")
        (result,) = client.trainings.wait(training).results
        for name in ("explained_variance", "l0", "cross_entropy_recovered"):
            evaluation = result.evaluation
            # An undefined figure is NaN and has a reason.
            figure = evaluation.undefined.get(name) or f"{evaluation.figures[name]:.4f}"
            print(f"{name}: {figure} ({evaluation.formulas[name]})")
        folder = client.sae_path(training)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing sae-lens prints deprecation warnings of its dependencies
        from sae_lens import SAE  # noqa: PLC0415  slow to import

        opened = SAE.load_from_disk(folder)
    # batchtopk opens as jumprelu with the learned threshold; normalization is folded into the weights.
    activations = torch.randn(4, opened.cfg.d_in)
    latents = opened.encode(activations)
    print(f"SAELens: {opened.cfg.architecture()}, {opened.cfg.d_sae} latents, {tuple(opened.decode(latents).shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
