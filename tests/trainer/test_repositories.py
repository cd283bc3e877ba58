import json

import pytest
import torch

from polytok import errors
from polytok.client import hub_export
from polytok.trainer.v1 import trainings_pb2
from services.activations.token_selection import TokenSelection
from services.trainer.sae import architectures, configs, export, normalization
from tests.support import messages
from tests.trainer import hub


def _exported(folder, name, hook, architecture="topk"):
    sae = architectures.create_sae(configs.SaeConfig(architecture=architecture, d_in=8, d_sae=32, k=4))
    selection = TokenSelection(excluded_token_ids=tuple(range(10)), excluded_positions=(0,))
    further = {"tokenization": "a|<b>", "available_samples": 2310, "passes": 30.25}
    origin = export.Origin(
        model_name="org/model",
        hook_name=hook,
        context_size=64,
        prepend_bos=False,
        selection=selection,
        further=further,
    )
    firing = export.Firing(torch.tensor([0.0] * 3 + [32 / 29] * 29), 8, "held out")
    export.write(sae, normalization.Normalization(), origin, firing, folder / name)
    return hub_export.Export(name, hook, folder / name)


@pytest.fixture
def exports(tmp_path):
    """Two autoencoders of one hook and one of another."""
    first, second = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
    return [
        _exported(tmp_path / "out", "small", first),
        _exported(tmp_path / "out", "nested", first, "matryoshka_batchtopk"),
        _exported(tmp_path / "out", "other", second, "standard"),
    ]


def test_a_folder_for_each_hook(exports, tmp_path):
    layout = hub_export.plan_layout(exports, "owner/saes")
    hub_export.write_layout(layout, tmp_path / "repository")
    found = sorted(str(path.relative_to(tmp_path / "repository")) for path in (tmp_path / "repository").rglob("*.json"))
    assert found == [
        "blocks.0.hook_resid_post/nested/cfg.json",
        "blocks.0.hook_resid_post/small/cfg.json",
        "blocks.1.hook_mlp_out/cfg.json",
    ]
    for path in found:
        opened = architectures.import_sae_lens().SAE.load_from_disk((tmp_path / "repository" / path).parent)
        assert opened.cfg.d_sae == 32


def test_laying_out_copies_nothing(exports, tmp_path):
    layout = hub_export.plan_layout(exports, "owner/saes")
    hub_export.write_layout(layout, tmp_path / "repository")
    for path, source in layout.files.items():
        assert (tmp_path / "repository" / path).samefile(source)
    with pytest.raises(errors.AlreadyExists) as caught:
        hub_export.write_layout(layout, tmp_path / "repository")
    messages.check_names(caught.value.message, tmp_path / "repository")


def test_card(exports):
    card = hub_export.plan_layout(exports, "owner/saes").card
    assert card.startswith("---\nlibrary_name: saelens\n")
    left_out = "tokens 0, 1, 2, 3, 4, 5, 6, 7 and 2 more; positions 0"
    rest = rf"8 | 32 | 4.0 | 3 | a\|&lt;b> | 64 | no | {left_out} | 2,310 | 30.2 |"
    rows = [line for line in card.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `blocks.0.hook_resid_post/small` | topk | {rest}",
        f"| `blocks.0.hook_resid_post/nested` | jumprelu (from matryoshka_batchtopk) | {rest}",
        f"| `blocks.1.hook_mlp_out` | standard | {rest}",
    ]
    assert 'SAE.from_pretrained("owner/saes", "blocks.0.hook_resid_post/small")' in card
    assert "Sparse autoencoders of org/model" in card


@pytest.mark.parametrize(
    ("prepends", "token", "cell"),
    [(False, "eos", "no (EOS)"), (True, "eos", "yes (EOS)"), (True, "bos", "yes"), (False, None, "no")],
)
def test_the_card_says_with_which_token_sequences_begin(exports, prepends, token, cell):
    path = exports[0].folder / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"] |= {"prepend_bos": prepends, "begin_batch_token": token}
    path.write_text(json.dumps(config))
    card = hub_export.plan_layout(exports[:1], "owner/saes").card
    (row,) = [line for line in card.splitlines() if line.startswith("| `")]
    assert row.split(" | ")[8] == cell


@pytest.mark.parametrize("repository", ["", "a/b/c", "../x", "owner/..", "/x", "owner/a b"])
def test_invalid_repository(exports, repository):
    with pytest.raises(errors.InvalidArgument) as caught:
        hub_export.plan_layout(exports, repository)
    _check_field(caught.value, "repository", repr(repository))


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", ".hidden"])
def test_path_traversal(exports, name):
    for changes in ({"name": name}, {"hook": name}):
        with pytest.raises(errors.InvalidArgument) as caught:
            hub_export.plan_layout([exports[0]._replace(**changes)], "owner/saes")
        _check_field(caught.value, "name", repr(name))


def test_incomplete_export(exports):
    (exports[1].folder / export.SPARSITY).unlink()
    with pytest.raises(errors.NotFound) as caught:
        hub_export.plan_layout(exports, "owner/saes")
    messages.check_names(caught.value.message, exports[1].folder, "sparsity.safetensors", "nested")


def test_duplicate_name(exports):
    with pytest.raises(errors.InvalidArgument) as caught:
        hub_export.plan_layout([exports[0], exports[0]], "owner/saes")
    _check_field(caught.value, "name", "blocks.0.hook_resid_post/small")


# The hub's package hands its HTTP client raw bytes in a way that the client calls old.
@pytest.mark.filterwarnings("ignore:Use 'content=")
def test_push_makes_one_commit(exports, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    layout = hub_export.plan_layout(exports, "owner/saes")
    with hub.running(tmp_path / "hub") as server:
        url = hub_export.push(layout, "owner/saes", token=hub.Hub.TOKEN, endpoint=server.endpoint)
    assert url == f"{server.endpoint}/owner/saes/commit/1"
    assert [made["visibility"] for made in server.created] == ["private"]
    assert [commit["summary"] for commit in server.commits] == [
        "Autoencoders: blocks.0.hook_resid_post, blocks.1.hook_mlp_out"
    ]
    for path, source in layout.files.items():
        assert (tmp_path / "hub" / path).read_bytes() == source.read_bytes()
    assert (tmp_path / "hub" / "README.md").read_text() == layout.card
    opened = architectures.import_sae_lens().SAE.load_from_disk(tmp_path / "hub" / "blocks.1.hook_mlp_out")
    assert opened.cfg.architecture() == "standard"


def test_push_without_permission(exports, tmp_path):
    layout = hub_export.plan_layout(exports, "owner/saes")
    with hub.running(tmp_path / "hub") as server, pytest.raises(errors.PermissionDenied) as caught:
        hub_export.push(layout, "owner/saes", token="hf_other", endpoint=server.endpoint)
    messages.check_names(caught.value.message, "owner/saes", "`hf auth login`")
    assert not (tmp_path / "hub").exists()


def test_push_to_an_unreachable_hub(exports):
    layout = hub_export.plan_layout(exports, "owner/saes")
    with pytest.raises(errors.Unavailable) as caught:
        hub_export.push(layout, "owner/saes", token="none", endpoint="http://127.0.0.1:9")
    assert caught.value.retryable
    messages.check_names(caught.value.message, "owner/saes")


def test_push_to_an_invalid_name(exports):
    layout = hub_export.plan_layout(exports, "owner/two--dashes")
    with pytest.raises(errors.InvalidArgument) as caught:
        hub_export.push(layout, "owner/two--dashes", token="none", endpoint="http://127.0.0.1:9")
    _check_field(caught.value, "repository", "two--dashes")


def test_the_card_escapes_values(exports, tmp_path):
    path = exports[2].folder / export.CONFIG
    config = json.loads(path.read_text())
    config["metadata"]["dataset_path"] = "x\n# heading"
    path.write_text(json.dumps(config))
    assert "\n# heading" not in hub_export.plan_layout(exports, "owner/saes").card


def _check_field(error, field, *names):
    assert [each.field for each in error.violations] == [field]
    messages.check_names(error.message, *names)


def _training(exports, state):
    results = [trainings_pb2.TrainedSae(name=each.name, hook=each.hook, path=str(each.folder)) for each in exports]
    return trainings_pb2.Training(name="trainings/first", state=state, results=results)


def test_exported_by_name(exports):
    training = _training(exports, trainings_pb2.Training.STATE_READY)
    assert hub_export.list_exports(training) == exports
    assert hub_export.list_exports(training, "nested") == [exports[1]]
    with pytest.raises(errors.InvalidArgument) as caught:
        hub_export.list_exports(training, "x")
    messages.check_names(caught.value.message, "'x'", "small", "nested", "other")


def test_a_paused_training_has_no_exports(exports):
    with pytest.raises(errors.FailedPrecondition) as caught:
        hub_export.list_exports(_training(exports, trainings_pb2.Training.STATE_PAUSED))
    assert caught.value.reason == "NOT_READY"
    messages.check_names(caught.value.message, "trainings/first", "PAUSED", "`polytok training resume first`")


def test_the_files_of_a_repository_are_those_of_an_export():
    assert hub_export.FILES == export.FILES
