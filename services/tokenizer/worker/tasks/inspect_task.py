"""The task `model.inspect`: describe a model's tokenizer and configuration."""

from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime import hub
from services.tokenizer.models import configuration, loader


def inspect(task: tasks_pb2.InspectModelTask, tokenizers: loader.TokenizerCache) -> tasks_pb2.InspectModelResult:
    """Load the tokenizer and read the configuration, both at pinned commits."""
    reference = tasks_pb2.TokenizerReference()
    reference.CopyFrom(task.tokenizer)
    # Once the commit is known, later commits of the branch change nothing.
    commit = hub.commit(hub.folder(reference.repo_id, reference.revision))
    reference.revision = commit or reference.revision
    tokenizer = tokenizers.get(reference)
    is_same = (task.repo_id, task.revision) == (task.tokenizer.repo_id, task.tokenizer.revision)
    folder = hub.folder(task.repo_id, reference.revision if is_same else task.revision)
    found = configuration.read(folder)
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
        # A tokenizer without a model often knows the maximum length of its model.
        context_length=found.context_length or tokenizer.model_max_length,
        commit=hub.commit(folder),
        tokenizer_commit=commit,
        chat_template_fingerprint=tokenizer.chat_template_fingerprint,
    )
