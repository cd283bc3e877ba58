"""Messages and plans: what is filled in, and that one becomes the other and back."""

import pytest

from polytok import errors
from polytok.client import training_arguments
from polytok.trainer.v1 import saes_pb2, trainings_pb2
from services.trainer import config_proto
from services.trainer.sae import configs
from tests.support import messages

HOOK = "blocks.3.hook_resid_post"


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
def test_every_architecture_there_and_back(architecture: configs.Architecture) -> None:
    given: training_arguments.Sae = {"hook": HOOK, "architecture": architecture, "d_sae": 256, "lr": 0.01, "seed": 3}
    if architecture == "matryoshka_batchtopk":
        given["matryoshka_widths"] = [32, 64]
    asked = training_arguments.to_message(given)
    (planned,) = config_proto.saes_from_messages([asked], {HOOK: 64})
    assert (planned.sae.architecture, planned.sae.d_in, planned.sae.d_sae) == (architecture, 64, 256)
    assert (planned.optimizer.lr, planned.sae.seed) == (0.01, 3)
    assert planned.name == f"{HOOK}-{architecture.replace('_', '-')}"
    complete = config_proto.sae_to_message(planned)
    assert config_proto.saes_from_messages([complete], {}) == (planned,)
    whole = config_proto.plan_from_messages([planned], trainings_pb2.TrainingParameters(batch_size=128), 100_000)
    assert (whole.total_samples, whole.buffer_samples, whole.log_every) == (100_000, 100_000, 7)
    assert config_proto.plan_from_messages([planned], config_proto.plan_to_message(whole), 0) == whole


def test_default_names_are_unique() -> None:
    topk = saes_pb2.Sae(hook=HOOK, d_sae=8, topk=saes_pb2.TopK(k=2))
    named = saes_pb2.Sae(hook=HOOK, d_sae=8, topk=saes_pb2.TopK(k=2), name=f"{HOOK}-topk")
    found = [each.name for each in config_proto.saes_from_messages([topk, named, topk], {})]
    assert found == [f"{HOOK}-topk-2", f"{HOOK}-topk", f"{HOOK}-topk-3"]
    (odd,) = config_proto.saes_from_messages([saes_pb2.Sae(hook="Model.Layer_0", d_sae=8, topk=saes_pb2.TopK(k=2))], {})
    assert odd.name == "model.layer_0-topk"


def test_errors_name_the_autoencoder() -> None:
    right = saes_pb2.Sae(hook=HOOK, d_sae=8, topk=saes_pb2.TopK(k=2))
    wrong = saes_pb2.Sae(hook=HOOK, d_sae=8, topk=saes_pb2.TopK(k=20), name="second")
    with pytest.raises(errors.InvalidArgument) as caught:
        config_proto.saes_from_messages([right, wrong], {})
    assert [violation.field for violation in caught.value.violations] == ["saes[1].k"]
    messages.check_names(caught.value.message, "second", "k", 20, 8)
    with pytest.raises(errors.InvalidArgument) as caught:
        config_proto.saes_from_messages([saes_pb2.Sae(hook=HOOK, d_sae=8)], {})
    assert [violation.field for violation in caught.value.violations] == ["saes[0].architecture"]
    messages.check_names(caught.value.message, HOOK, "architecture", *configs.ARCHITECTURES)


def test_a_source_too_small_for_a_batch() -> None:
    planned = config_proto.saes_from_messages([saes_pb2.Sae(hook=HOOK, d_sae=8, topk=saes_pb2.TopK(k=2))], {})
    with pytest.raises(errors.InvalidArgument) as caught:
        config_proto.plan_from_messages(planned, trainings_pb2.TrainingParameters(), 1000)
    assert [violation.field for violation in caught.value.violations] == ["parameters.batch_size"]
    messages.check_names(caught.value.message, "batch_size", "4,096", "1,000")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"architecture": "dense"}, ["'dense'", "architecture", *configs.ARCHITECTURES]),
        ({"architecture": "topk", "l1_coefficient": 1.0}, ["topk", "'l1_coefficient'", "k", "aux_loss_coefficient"]),
        ({"architecture": "topk", "k": "many"}, ["k", "'many'"]),
        (
            {"architecture": "topk", "normalize_activations": "twice"},
            ["'twice'", "normalize_activations", "none", "expected_average_only_in"],
        ),
    ],
)
def test_the_client_rejects_unknown_names_and_values(given: training_arguments.Sae, names: list[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        training_arguments.to_message({"hook": HOOK, "d_sae": 8, **given})
    assert caught.value.reason == "INVALID_FIELD"
    messages.check_names(caught.value.message, *names)
