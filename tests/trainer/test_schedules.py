import pytest
import torch

from services.trainer.sae import architectures, configs, schedules

TOTAL = 40


@pytest.mark.parametrize("name", configs.SCHEDULES)
@pytest.mark.parametrize(("warm_up", "decay"), [(0, 0), (1, 0), (5, 0), (0, 8), (5, 8)])
@pytest.mark.parametrize("end", [None, 2e-4])
def test_learning_rates_are_those_of_sae_lens(name, warm_up, decay, end):
    architectures.import_sae_lens()
    from sae_lens.training import optim

    config = configs.OptimizerConfig(
        lr=1e-3,
        lr_scheduler_name=name,
        lr_warm_up_steps=warm_up,
        lr_decay_steps=decay,
        lr_end=end,
        n_restart_cycles=3 if name == "cosineannealingwarmrestarts" else 1,
    )
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = optim.get_lr_scheduler(
        name,
        optimizer=optimizer,
        training_steps=TOTAL,
        lr=config.lr,
        warm_up_steps=warm_up,
        decay_steps=decay,
        lr_end=config.lr / 10 if end is None else end,
        num_cycles=config.n_restart_cycles,
    )
    for step in range(TOTAL):
        ours = schedules.learning_rate(config, TOTAL, step)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
@pytest.mark.parametrize("warm_up", [0, 1, 6])
def test_coefficients_are_those_of_sae_lens(architecture, warm_up):
    architectures.import_sae_lens()
    from sae_lens.training import optim

    config = configs.SaeConfig(
        architecture=architecture,
        d_in=4,
        d_sae=8,
        k=2,
        l1_coefficient=3.0,
        l0_coefficient=0.7,
        l1_warm_up_steps=warm_up,
        l0_warm_up_steps=warm_up,
    )
    theirs = {
        name: optim.CoefficientScheduler(coefficient.warm_up_steps, coefficient.value)
        for name, coefficient in architectures.create_sae(config).get_coefficients().items()
    }
    for step in range(10):
        assert schedules.coefficients(config, step) == pytest.approx({name: s.value for name, s in theirs.items()})
        for scheduler in theirs.values():
            scheduler.step()
