"""The trainer's own configuration; what every service has is in `services.runtime.settings`."""

from pydantic_settings import SettingsConfigDict

from services.runtime.records.sweeper import SweepSettings


class TrainerServerSettings(SweepSettings):
    """How the trainer's server keeps its house."""

    model_config = SettingsConfigDict(env_prefix="POLYTOK_TRAINER_")
