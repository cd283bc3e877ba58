import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from services.trainer.sae import architectures, configs
from services.trainer.sae.steps import base, factory, reference, relu, sparse
from tests.trainer import batches


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def _saelens_trainer(sae):
    architectures.import_sae_lens()
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    optimizer = batches.OPTIMIZER
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=20 * batches.BATCH,
        device="cpu",
        autocast=False,
        lr=optimizer.lr,
        lr_end=optimizer.lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=optimizer.lr_warm_up_steps,
        adam_beta1=optimizer.adam_beta1,
        adam_beta2=optimizer.adam_beta2,
        lr_decay_steps=optimizer.lr_decay_steps,
        n_restart_cycles=1,
        train_batch_size_samples=batches.BATCH,
        dead_feature_window=2,
        feature_sampling_window=7,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
    return SAETrainer(config, sae, iter(()))


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize("reference_only", [True, False])
def test_twenty_steps_are_those_of_saelens_own_trainer(architecture, reference_only):
    config = configs.SaeConfig(
        architecture=architecture,
        d_in=batches.D_IN,
        d_sae=batches.D_SAE,
        k=4,
        dtype="float64",
        l1_warm_up_steps=5,
        l0_warm_up_steps=5,
        pre_act_loss_coefficient=1e-3 if reference_only else None,
        matryoshka_widths=(8, 24),
    )
    theirs = _saelens_trainer(architectures.create_sae(config))
    ours = batches.step(factory.choose_step_class(config, reference_only), config)
    # jumprelu keeps its thresholds in float32, whose last digit differs between kernels of Adam.
    tolerance = 1e-8 if architecture == "jumprelu" else 1e-11
    for batch in batches.activations(20):
        if theirs.n_training_steps and theirs.n_training_steps % 7 == 0:
            theirs._reset_running_sparsity_stats()
        expected = theirs.step(batch)
        theirs.n_training_steps += 1
        outcome = ours(batch)
        assert float(outcome.loss) == pytest.approx(float(expected.loss.detach()), rel=tolerance)
        assert {name: float(loss) for name, loss in outcome.losses.items()} == pytest.approx(
            {name: float(loss.detach()) for name, loss in expected.losses.items()}, rel=tolerance * 10, abs=1e-12
        )
    for name, tensor in theirs.sae.state_dict().items():
        assert _relative(ours.sae.state_dict()[name], tensor) < tolerance * 100, name
    counts, samples = ours.firing()
    assert torch.equal(counts.float(), theirs.act_freq_scores)
    assert samples == theirs.n_frac_active_samples
    assert torch.equal(ours.dead(), theirs.dead_neurons)


@pytest.mark.parametrize("name", batches.FAST)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_fast_steps_give_the_reference_loss_and_gradients(name, dtype, tolerance):
    config = configs.SaeConfig.from_dict(batches.FAST[name].to_dict() | {"dtype": dtype})
    slow, fast = batches.step(reference.ReferenceStep, config), batches.step(sparse.TopkStep, config)
    most_dead = 0
    for batch in batches.activations(20, dtype):
        most_dead = max(most_dead, int(slow.dead().sum()))
        theirs, ours = slow._compute(batch), fast._compute(batch)
        assert set(ours.gradients) == set(theirs.gradients)
        for parameter, gradient in theirs.gradients.items():
            assert _relative(ours.gradients[parameter], gradient) < tolerance, parameter
        assert torch.equal(ours.fired, theirs.fired)
        expected, outcome = slow(batch, measure=True), fast(batch, measure=True)
        for mine, other in ((outcome.losses, expected.losses), (outcome.metrics, expected.metrics)):
            assert {key: float(value) for key, value in mine.items()} == pytest.approx(
                {key: float(value) for key, value in other.items()}, rel=tolerance * 10, abs=tolerance
            )
    assert most_dead > 0, "no latent died: the auxiliary loss was not tried"
    states = slow.state().tensors, fast.state().tensors
    assert set(states[0]) == set(states[1])
    for key, tensor in states[0].items():
        assert torch.allclose(states[1][key].double(), tensor.double(), rtol=0, atol=tolerance), key


@pytest.mark.parametrize("name", batches.RECTIFIED)
@pytest.mark.parametrize("few", [0.0, 2.0], ids=["dense", "pairs"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_and_gradients_match_the_reference(name, few, dtype, monkeypatch):
    monkeypatch.setattr(relu, "_FEW", few)
    config = configs.SaeConfig.from_dict(batches.RECTIFIED[name].to_dict() | {"dtype": dtype})
    # jumprelu keeps its thresholds, and their gradients, in float32.
    exact = dtype == "float64" and config.architecture == "standard"
    tolerance = 1e-10 if exact else 1e-5
    slow, fast = batches.step(reference.ReferenceStep, config), batches.step(relu.ReluStep, config)
    for batch in batches.activations(20, dtype):
        theirs, ours = slow._compute(batch), fast._compute(batch)
        assert set(ours.gradients) == set(theirs.gradients)
        for parameter, gradient in theirs.gradients.items():
            assert _relative(ours.gradients[parameter], gradient) < tolerance, parameter
        assert torch.equal(ours.fired, theirs.fired)
        expected, outcome = slow(batch, measure=True), fast(batch, measure=True)
        for mine, other in ((outcome.losses, expected.losses), (outcome.metrics, expected.metrics)):
            assert {key: float(value) for key, value in mine.items()} == pytest.approx(
                {key: float(value) for key, value in other.items()}, rel=tolerance * 10, abs=tolerance
            )
    for key, tensor in slow.state().tensors.items():
        assert torch.allclose(fast.state().tensors[key].double(), tensor.double(), rtol=0, atol=tolerance), key


@pytest.mark.parametrize("name", batches.FAST)
def test_the_way_without_reading_values_gives_the_same(name, monkeypatch):
    """A device takes ways of its own, so as not to be waited for. They compute on a processor, too."""
    config = batches.FAST[name]
    slow, fast = batches.step(reference.ReferenceStep, config), batches.step(sparse.TopkStep, config)
    monkeypatch.setattr(base, "reads_values", lambda tensor: False)
    for batch in batches.activations(12):
        assert float(fast(batch).loss) == pytest.approx(float(slow(batch).loss), rel=1e-10)
    for key, tensor in slow.state().tensors.items():
        assert torch.allclose(fast.state().tensors[key], tensor, rtol=0, atol=1e-10), key


class _Reads(TorchDispatchMode):
    """Notes the operations whose result a program waits for on a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            self.found.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", batches.FAST | batches.RECTIFIED)
def test_a_step_on_a_device_reads_no_value(name, monkeypatch):
    monkeypatch.setattr(base, "reads_values", lambda tensor: False)
    config = (batches.FAST | batches.RECTIFIED)[name]
    fast = batches.step(factory.choose_step_class(config), config, batches.options(60))
    data = batches.activations(8)
    for batch in data[:5]:
        fast(batch)
    assert fast.dead().any() or name in batches.RECTIFIED, "no latent died: the auxiliary loss was not tried"
    with _Reads() as reads:
        for batch in data[5:]:
            fast(batch)
    assert reads.found == []


def test_dead_latents_need_no_positive_scores():
    config = batches.FAST["batchtopk"]
    fast = batches.step(sparse.TopkStep, config)
    with torch.no_grad():
        fast.sae.b_enc.fill_(-1e3)
    outcome = fast(batches.activations(1)[0], measure=True)
    assert outcome.loss.isfinite()
    assert float(outcome.metrics["l0"]) == 0
    assert float(fast.sae.topk_threshold) == 0


def test_a_clip_of_the_gradients_is_optional():
    config = batches.FAST["topk"]
    free = batches.options(optimizer=configs.OptimizerConfig(lr=1e-2, gradient_clip=None))
    clipped = batches.step(sparse.TopkStep, config, free._replace(optimizer=configs.OptimizerConfig(lr=1e-2)))
    unclipped = batches.step(sparse.TopkStep, config, free)
    first, second = batches.activations(2)
    norms = [float(step(first, measure=True).metrics["gradient_norm"]) for step in (clipped, unclipped)]
    assert norms[0] == norms[1] > 1
    moments = [step.state().tensors["optimizer.exp_avg.W_dec"] for step in (clipped, unclipped)]
    assert _relative(moments[0] * norms[0], moments[1]) < 1e-5
    clipped(second)
    unclipped(second)
    assert not torch.equal(clipped.sae.W_dec, unclipped.sae.W_dec)


def test_small_steps_on_bfloat16_weights_add_up():
    # Most are less than half of what bfloat16 tells apart at the weights' size.
    options = batches.options(60)._replace(optimizer=configs.OptimizerConfig(lr=1e-4))
    moved = {}
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(batches.FAST["topk"], dtype=dtype)
        step = batches.step(factory.choose_step_class(config), config, options)
        before = step.sae.W_dec.detach().float().clone()
        for batch in batches.activations(60, "float32"):
            step(batch)
        assert step.sae.W_dec.dtype == getattr(torch, dtype)
        moved[dtype] = float((step.sae.W_dec.detach().float() - before).abs().mean())
    assert moved["bfloat16"] == pytest.approx(moved["float32"], rel=0.1)


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "autocast"), [("bfloat16", False), ("float32", True)])
def test_bfloat16_weights_and_autocast_come_near_to_float32(architecture, dtype, autocast):
    fields = batches.FAST["matryoshka"].to_dict() | {"architecture": architecture}
    exact = configs.SaeConfig.from_dict(fields | {"dtype": "float32"})
    coarse = configs.SaeConfig.from_dict(fields | {"dtype": dtype})
    expected = batches.step(factory.choose_step_class(exact), exact)
    step = batches.step(factory.choose_step_class(coarse), coarse, batches.options(autocast=autocast))
    for batch in batches.activations(5, "float32"):
        loss = float(step(batch, measure=True).loss)
        assert loss == pytest.approx(float(expected(batch).loss), rel=0.1)
    assert step.sae.W_dec.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_activations_in_half_precision_train_as_their_values(architecture, dtype):
    fields = batches.FAST["matryoshka"].to_dict() | {"architecture": architecture, "dtype": "float32"}
    config = configs.SaeConfig.from_dict(fields)
    steps = [batches.step(factory.choose_step_class(config), config) for _ in range(2)]
    for batch in batches.activations(3, dtype):
        assert torch.equal(steps[0](batch, measure=True).loss, steps[1](batch.float(), measure=True).loss)


def test_the_fastest_step_is_chosen_where_it_is_exact():
    for name, config in batches.FAST.items():
        assert factory.choose_step_class(config) is sparse.TopkStep, name
        assert factory.choose_step_class(config, reference_only=True) is reference.ReferenceStep
        bfloat = configs.SaeConfig.from_dict(config.to_dict() | {"dtype": "bfloat16"})
        assert factory.choose_step_class(bfloat) is reference.ReferenceStep
    for name, config in batches.RECTIFIED.items():
        assert factory.choose_step_class(config) is relu.ReluStep, name
    for fields in (
        {"architecture": "gated"},
        {"architecture": "standard", "lp_norm": 0.5},
        {"architecture": "jumprelu", "jumprelu_sparsity_loss_mode": "tanh"},
        {"architecture": "jumprelu", "pre_act_loss_coefficient": 1e-6},
        {"architecture": "jumprelu", "jumprelu_ste_to_input": True},
    ):
        assert factory.choose_step_class(configs.SaeConfig(d_in=4, d_sae=8, **fields)) is reference.ReferenceStep, (
            fields
        )
