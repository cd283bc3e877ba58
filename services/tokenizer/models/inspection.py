"""The task `model.inspect`: what a model's tokenizer and configuration are."""

from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.tokenizer.models import configuration, hub, loading


def inspect(task: tasks_pb2.InspectModelTask, tokenizers: loading.Tokenizers) -> tasks_pb2.InspectModelResult:
    """Loads the tokenizer and reads the configuration."""
    tokenizer = tokenizers.get(task.tokenizer)
    found = configuration.read(hub.folder(task.repo_id, task.revision))
    return tasks_pb2.InspectModelResult(
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_class=tokenizer.class_name,
        vocab_size=tokenizer.vocab_size,
        special_tokens=[
            models_pb2.SpecialToken(role=role, text=text, id=token) for role, text, token in tokenizer.special_tokens
        ],
        architecture=found.architecture,
        d_model=found.d_model,
        n_layers=found.n_layers,
        # A tokenizer without a model beside it often knows how much its model takes.
        context_length=found.context_length or tokenizer.model_max_length,
    )
