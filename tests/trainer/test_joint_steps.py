import json

import pytest

from services.trainer.sae.steps import factory
from tests.trainer import attempts, batches, joint


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """Return what each of two processes that trained together on halves of every batch ended with."""
    folder = tmp_path_factory.mktemp("joint")
    started = [attempts.context().Process(target=joint.main, args=(folder, rank, 2)) for rank in range(2)]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join()
            assert process.exitcode == 0
    finally:
        for process in started:
            process.kill()
            process.join()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", joint.NAMES)
def test_processes_stay_together(sent, name):
    assert sent[0][name] == sent[1][name]


@pytest.mark.parametrize("name", ["topk", "topk, wide"])
def test_two_processes_train_as_one_does_on_the_joint_batch(sent, name):
    config = batches.FAST[name]
    alone = batches.step(factory.choose_step_class(config), config)
    died = 0
    for batch in batches.activations(joint.STEPS):
        alone(batch)
        died = max(died, int(alone.dead().sum()))
    assert died, "no latent died: the auxiliary loss was not tried"
    state = alone.state()
    assert sent[0][name]["parameters"] == pytest.approx(state.tensors["parameters.W_dec"].flatten().tolist(), abs=1e-10)
    assert sent[0][name]["encoder"] == pytest.approx(state.tensors["parameters.W_enc.T"].flatten().tolist(), abs=1e-10)
    assert sent[0][name]["since_fired"] == state.tensors["since_fired"].tolist()
    assert sent[0][name]["firings"] == state.tensors["firings"].tolist()
    assert sent[0][name]["samples"] == state.numbers["firing_samples"]


def test_a_batch_is_chosen_among_by_each_process_for_itself(sent):
    """k on average holds in every part; the threshold is the parts' mean, near that of the whole."""
    config = batches.FAST["batchtopk"]
    alone = batches.step(factory.choose_step_class(config), config)
    for batch in batches.activations(joint.STEPS):
        alone(batch)
    assert sum(sent[0]["batchtopk"]["firings"]) == pytest.approx(float(alone.firing()[0].sum()), abs=2 * joint.STEPS)
    threshold = float(alone.state().tensors["topk_threshold"])
    assert sent[0]["batchtopk"]["threshold"] == pytest.approx(threshold, rel=0.1)
