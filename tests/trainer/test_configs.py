import dataclasses
import json

import pytest

from polytok import errors
from services.trainer.sae import configs
from tests.support import messages


def _sae(**changes):
    return configs.SaeConfig(**({"architecture": "topk", "d_in": 8, "d_sae": 32, "k": 4} | changes))


def _plan(**changes):
    saes = (configs.PlannedSae(name="a", hook="blocks.0.hook_resid_post", sae=_sae()),)
    return configs.TrainingPlan(**({"saes": saes, "total_samples": 2**20, "batch_size": 1000} | changes))


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
def test_json_round_trip(architecture):
    sae = _sae(architecture=architecture, matryoshka_widths=(4, 16))
    made = _plan(saes=(configs.PlannedSae(name="a", hook="h", sae=sae, optimizer=configs.OptimizerConfig(lr=1e-5)),))
    assert configs.TrainingPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_the_last_matryoshka_width_is_d_sae():
    assert _sae(architecture="matryoshka_batchtopk", matryoshka_widths=(4, 16)).matryoshka_widths == (4, 16, 32)
    assert _sae(architecture="matryoshka_batchtopk", matryoshka_widths=(4, 32)).matryoshka_widths == (4, 32)


def test_steps_and_hooks():
    saes = [configs.PlannedSae(name=name, hook=hook, sae=_sae()) for name, hook in (("a", "x"), ("b", "y"), ("c", "x"))]
    made = _plan(saes=saes, total_samples=10_999, buffer_samples=1000)
    assert (made.total_steps, made.hooks) == (10, ("x", "y"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "mlp"}, "sae.architecture"),
        ({"dtype": "int8"}, "sae.dtype"),
        ({"normalize_activations": "layer_norm"}, "sae.normalize_activations"),
        ({"d_in": 0}, "sae.d_in"),
        ({"d_in": 1}, "sae.d_in"),
        ({"k": 33}, "sae.k"),
        ({"architecture": "batchtopk", "k": 0.01}, "sae.k"),
        ({"k": 2.5}, "sae.k"),
        ({"k": float("nan")}, "sae.k"),
        ({"l1_coefficient": -1}, "sae.l1_coefficient"),
        ({"aux_loss_coefficient": float("inf")}, "sae.aux_loss_coefficient"),
        ({"decoder_init_norm": 0}, "sae.decoder_init_norm"),
        ({"architecture": "matryoshka_batchtopk", "matryoshka_widths": (16, 4)}, "sae.matryoshka_widths"),
        ({"architecture": "jumprelu", "jumprelu_sparsity_loss_mode": "quadratic"}, "sae.target_l0"),
        ({"learning_rate": 1}, "sae.learning_rate"),
    ],
)
def test_invalid_autoencoder_fields(changes, field):
    fields = _sae().to_dict() | changes
    with pytest.raises(errors.InvalidArgument) as caught:
        configs.SaeConfig.from_dict(fields)
    assert [each.field for each in caught.value.violations] == [field]
    messages.check_names(caught.value.message, field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lr": 0}, "optimizer.lr"),
        ({"adam_beta2": 1}, "optimizer.adam_beta2"),
        ({"lr_scheduler_name": "exponential"}, "optimizer.lr_scheduler_name"),
        ({"lr_warm_up_steps": -1}, "optimizer.lr_warm_up_steps"),
        ({"gradient_clip": 0}, "optimizer.gradient_clip"),
        ({"lr_scheduler_name": "cosineannealing", "lr_end": 0, "lr_decay_steps": 5}, "optimizer.lr_decay_steps"),
        ({"momentum": 0.9}, "optimizer.momentum"),
    ],
)
def test_invalid_optimizer_fields(changes, field):
    with pytest.raises(errors.InvalidArgument) as caught:
        configs.OptimizerConfig.from_dict(configs.OptimizerConfig().to_dict() | changes)
    assert [each.field for each in caught.value.violations] == [field]
    messages.check_names(caught.value.message, field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"saes": ()}, "saes"),
        ({"batch_size": 0}, "batch_size"),
        ({"total_samples": 999}, "total_samples"),
        ({"buffer_samples": 999}, "buffer_samples"),
        ({"threads": -1}, "threads"),
    ],
)
def test_invalid_training_fields(changes, field):
    with pytest.raises(errors.InvalidArgument) as caught:
        _plan(**changes)
    assert [each.field for each in caught.value.violations] == [field]
    messages.check_names(caught.value.message, field)


def test_names_are_unique_and_a_hook_has_one_width():
    first = configs.PlannedSae(name="a", hook="x", sae=_sae())
    with pytest.raises(errors.InvalidArgument) as caught:
        _plan(saes=(first, dataclasses.replace(first, hook="y")))
    messages.check_names(caught.value.message, "'a'")
    with pytest.raises(errors.InvalidArgument) as caught:
        _plan(saes=(first, configs.PlannedSae(name="b", hook="x", sae=_sae(d_in=9))))
    messages.check_names(caught.value.message, "sae.d_in", "x")
