import pytest
import safetensors.torch
import torch

from polytok import errors
from services.trainer.sae import configs
from services.trainer.sae.steps import factory, protocol
from tests.trainer import batches

CONFIGS = batches.FAST | {
    architecture: configs.SaeConfig(
        architecture=architecture, d_in=batches.D_IN, d_sae=batches.D_SAE, l1_warm_up_steps=6, l0_warm_up_steps=6
    )
    for architecture in ("standard", "gated", "jumprelu")
}


def _same(first, second):
    return all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_resumed_step_is_bit_identical(name):
    config = configs.SaeConfig.from_dict(CONFIGS[name].to_dict() | {"dtype": "float32"})
    data = batches.activations(18, "float32")
    whole = batches.step(factory.choose_step_class(config), config)
    for batch in data[:9]:
        whole(batch)
    state = whole.state()
    # As a checkpoint holds it: tensors that safetensors accepts, and numbers that JSON does.
    kept = safetensors.torch.save(state.tensors), dict(state.numbers)
    expected = [whole(batch, measure=True) for batch in data[9:]]
    resumed = batches.step(
        factory.choose_step_class(config), configs.SaeConfig.from_dict(config.to_dict() | {"seed": 9})
    )
    resumed.load(protocol.StepState(safetensors.torch.load(kept[0]), kept[1]))
    for batch, outcome in zip(data[9:], expected, strict=True):
        again = resumed(batch, measure=True)
        assert torch.equal(again.loss, outcome.loss)
        assert {key: float(value) for key, value in again.metrics.items()} == {
            key: float(value) for key, value in outcome.metrics.items()
        }
    assert _same(whole.state(), resumed.state())
    assert whole.state().numbers == resumed.state().numbers == {"steps_done": 18, "firing_samples": 4 * batches.BATCH}


def test_runs_are_reproducible_by_seed():
    config = batches.FAST["batchtopk"]
    other = configs.SaeConfig.from_dict(config.to_dict() | {"seed": 1})
    steps = [batches.step(factory.choose_step_class(config), each) for each in (config, config, other)]
    for batch in batches.activations(6):
        for step in steps:
            step(batch)
    first, second, third = (step.state() for step in steps)
    assert _same(first, second)
    assert not torch.equal(first.tensors["parameters.W_dec"], third.tensors["parameters.W_dec"])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"d_sae": 64}, ["(48, 12)", "(64, 12)"]),
        ({"architecture": "topk"}, ["topk_threshold"]),
        ({"dtype": "float32"}, ["float64"]),
    ],
)
def test_state_of_another_configuration(changes, names):
    config = batches.FAST["batchtopk"]
    state = batches.step(factory.choose_step_class(config), config).state()
    other = configs.SaeConfig.from_dict(config.to_dict() | {"k": 4} | changes)
    step = batches.step(factory.choose_step_class(other), other)
    with pytest.raises(errors.FailedPrecondition) as caught:
        step.load(state)
    for name in names:
        assert name in caught.value.message


def test_a_plan_gives_a_step_of_its_options():
    planned = configs.PlannedSae(name="a", hook="h", sae=batches.FAST["topk"], optimizer=batches.OPTIMIZER)
    training = configs.TrainingPlan(saes=(planned,), total_samples=20 * batches.BATCH, batch_size=batches.BATCH)
    step = factory.create_step(planned, training)
    assert step.learning_rate() == pytest.approx(1e-2 / 3)
    for batch in batches.activations(18):
        step(batch)
    # Two of the four steps of decay are done.
    assert step.learning_rate() == pytest.approx(1e-2 / 2)


@pytest.mark.long
# What PyTorch's compiler warns of are its own parts.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("architecture", "reference"),
    [("topk", False), ("matryoshka_batchtopk", False), ("topk", True), ("standard", True), ("jumprelu", True)],
)
def test_compiled_steps_give_the_same(architecture, reference):
    config = configs.SaeConfig.from_dict(batches.FAST["matryoshka"].to_dict() | {"architecture": architecture})
    kind = factory.choose_step_class(config, reference)
    plain, compiled = batches.step(kind, config), batches.step(kind, config, batches.options(compile=True))
    for batch in batches.activations(6):
        assert float(compiled(batch).loss) == pytest.approx(float(plain(batch).loss), rel=1e-9)
