from __future__ import annotations

import json
import shutil
import threading

import pytest
import torch

from pipeline.config.training import LoraSection
from pipeline.errors import ModelError
from pipeline.formatting import Formatter
from pipeline.hydra import Backbone, lora_config, merge, save_adapter
from pipeline.judges import RewardJudge
from pipeline.model_finding import Need, find_model
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.served_models import ServedModels, load_model
from pipeline.streaming import Policy

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def adapter_folder(policy_folder, tmp_path_factory):
    backbone = Backbone(load_policy(policy_folder).eval())
    backbone.add("policy", lora_config(LoraSection(rank=4), policy_folder), seed=0, trained=True)
    with torch.no_grad():
        for weight in backbone.weights("policy").values():
            weight.add_(0.05)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save_adapter(backbone, "policy", folder)
    return folder


@pytest.fixture
def adapter_copy(adapter_folder, tmp_path):
    """Return a copy of the adapter and a function that changes its settings."""
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder, folder)
    settings = folder / "adapter_config.json"

    def change(**fields):
        tree = json.loads(settings.read_text(encoding="utf-8"))
        settings.write_text(json.dumps({**tree, **fields}), encoding="utf-8")
        return str(folder)

    return change


def test_policies_and_reward_models_load_as_what_they_are(policy_folder, reward_folder):
    policy = load_model(find_model("policy", str(policy_folder)), CPU)
    assert isinstance(policy, Policy)
    assert policy.name == str(policy_folder)
    assert torch.equal(policy.model(IDS).logits, load_policy(policy_folder).eval()(IDS).logits)
    assert not policy.model.training
    assert isinstance(load_model(find_model("reward", str(reward_folder)), CPU), RewardJudge)
    with pytest.raises(ModelError, match="must hold a language model, got a reward"):
        load_model(find_model("policy", str(reward_folder)), CPU)


def test_a_model_without_a_tokenizer_is_refused(policy_folder, tmp_path):
    load_policy(policy_folder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="No tokenizer could be loaded"):
        load_model(find_model("policy", str(tmp_path)), CPU)


def test_a_model_without_a_tokenizer_takes_the_one_that_is_named(policy_folder, tmp_path):
    load_policy(policy_folder).save_pretrained(tmp_path)
    policy = load_model(find_model("policy", str(tmp_path), str(policy_folder)), CPU)
    whole = load_model(find_model("policy", str(policy_folder)), CPU)
    assert torch.equal(policy.model(IDS).logits, whole.model(IDS).logits)
    turns = Prompt.from_text("Where does Tom live?").messages
    assert policy.formatter.prompt_ids(turns) == whole.formatter.prompt_ids(turns)


def test_a_tokenizer_of_another_model_is_refused(make_policy, policy_folder, tmp_path):
    small = make_policy(0, torch.float32)
    small.resize_token_embeddings(300)
    small.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"must have at most its 300 tokens, got 382 in .*model\."):
        load_model(find_model("policy", str(tmp_path), str(policy_folder)), CPU)
    with pytest.raises(ModelError, match=r"No tokenizer could be loaded from .*nowhere"):
        load_model(find_model("policy", str(tmp_path), str(tmp_path / "nowhere")), CPU)


def test_an_adapter_takes_the_tokenizer_that_is_named(adapter_folder, policy_folder):
    need = find_model("policy", str(adapter_folder), str(policy_folder))
    assert load_model(need, CPU).formatter.tokenizer.name_or_path == str(policy_folder)


def test_an_adapter_is_merged_into_its_base(adapter_folder, policy_folder, tiny_formatter):
    need = find_model("policy", str(adapter_folder))
    assert need.size > find_model("policy", str(policy_folder)).size
    policy = load_model(need, CPU)
    expected = merge(load_policy(policy_folder).eval(), adapter_folder)
    assert torch.allclose(policy.model(IDS).logits, expected(IDS).logits, atol=1e-5)
    plain = load_policy(policy_folder).eval()
    assert not torch.allclose(policy.model(IDS).logits, plain(IDS).logits, atol=1e-2)
    assert isinstance(policy.formatter, Formatter)
    assert policy.formatter.end_id == tiny_formatter.end_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_type": "SEQ_CLS"}, "must hold the adapter of a language model, got one of SEQ_CLS"),
        ({"base_model_name_or_path": None}, "must name the adapter's base, got none"),
        ({"base_model_name_or_path": "/gone/model"}, "No model in /gone/model"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(adapter_copy, fields, message):
    with pytest.raises(ModelError, match=message):
        find_model("policy", adapter_copy(**fields))


def test_an_adapter_that_is_pickled_is_refused(adapter_copy, tmp_path):
    place = adapter_copy()
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_name("other.safetensors"))
    weights.with_suffix(".bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"must hold adapter_model\.safetensors, got none\."):
        find_model("policy", place)


def test_an_adapter_of_another_base_is_refused(adapter_copy, make_policy, tiny_tokenizer, tmp_path):
    wide = make_policy(0, torch.float32, hidden_size=64, num_heads=4)
    wide.save_pretrained(tmp_path / "wide")
    tiny_tokenizer.save_pretrained(tmp_path / "wide")
    place = adapter_copy(base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(ModelError, match="does not fit its base"):
        load_model(find_model("policy", place), CPU)


class Loads:
    """Load nothing, when it is told to, and remember what was asked for."""

    def __init__(self):
        self.names = []
        self.go = threading.Event()
        self.go.set()
        self.error = None

    def __call__(self, need, _device):
        assert self.go.wait(10)
        self.names.append(need.name)
        if self.error is not None:
            raise self.error
        return need.name


def need(name, size=4, stamp=1, role="policy"):
    return Need(role, f"/{name}", stamp, name, size)


@pytest.fixture
def loads():
    return Loads()


@pytest.fixture
def models(loads):
    return ServedModels(10, CPU, lambda: None, loads)


def use(models, *needs):
    """Lease models, wait for them and give them back."""
    lease = models.lease(needs)
    found = [model.result(10) for model in lease.models]
    models.release(lease)
    return found


def held(models):
    return {model.path for model in models.list()}


def test_a_model_is_loaded_once(models, loads):
    assert use(models, need("a")) == ["a"]
    lease = models.lease([need("a"), need("b"), need("a")])
    assert [one.name for one in lease.missing] == ["b"]
    assert [model.result(10) for model in lease.models] == ["a", "b", "a"]
    assert loads.names == ["a", "b"]


def test_the_least_recently_used_goes_for_another(models):
    use(models, need("a"))
    use(models, need("b"))
    use(models, need("a"))
    use(models, need("c"))
    assert held(models) == {"a", "c"}
    use(models, need("d", size=10))
    assert held(models) == {"d"}


def test_nothing_that_is_in_use_goes_and_nothing_goes_in_vain(models):
    first = models.lease([need("a")])
    use(models, need("b"))
    assert models.lease([need("c", size=7)]) is None
    assert held(models) == {"a", "b"}
    models.release(first)
    assert use(models, need("c", size=7)) == ["c"]
    assert held(models) == {"c"}


def test_a_request_takes_all_of_its_models_or_none(models, loads):
    first = models.lease([need("a", size=6)])
    assert models.lease([need("b", size=3), need("c", size=3)]) is None
    first.models[0].result(10)
    assert loads.names == ["a"]


def test_what_another_needs_beside_it_does_not_go(models):
    use(models, need("a"))
    use(models, need("b"))
    assert use(models, need("a"), need("c", size=6)) == ["a", "c"]
    assert held(models) == {"a", "c"}


def test_keys_and_values_count_beside_the_weights(models):
    first = models.lease([need("a")], 3)
    assert models.lease([need("a")], 4) is None
    second = models.lease([need("a")], 3)
    assert models.lease([need("b")]) is None
    models.release(first)
    models.release(second)
    use(models, need("b"))
    assert held(models) == {"a", "b"}
    assert models.lease([need("a")], 5).models[0].result(10) == "a"
    assert held(models) == {"a"}, "what nobody uses goes for them"


def test_whoever_does_not_wait_goes_beyond_the_bound_where_the_models_are_held(models):
    first = models.lease([need("a")], 6)
    first.models[0].result(10)
    assert models.lease([need("a")], 2) is None
    models.release(models.lease([need("a")], 2, at_once=True))
    assert models.lease([need("a"), need("b")], 2, at_once=True) is None
    with pytest.raises(ModelError):
        models.lease([need("a")], 7, at_once=True)


def test_what_would_fit_beside_leases_is_told(models):
    first, second = models.lease([need("a")], 1), models.lease([need("a")], 3)
    assert not models.fits([need("b")], 0, [first, second])
    assert models.fits([need("b")], 1, [first])
    assert not models.fits([need("b")], 2, [first])
    assert models.fits([need("a")], 2, [first, second]), "a model counts once"
    assert models.fits([need("b")], 6, [])


def test_what_is_held_is_told(models):
    models.lease([need("a")])
    assert models.holds([need("a")])
    assert models.holds([])
    assert not models.holds([need("a"), need("b")])
    assert not models.holds([need("a", stamp=2)])


def test_what_can_never_fit_is_refused(models):
    with pytest.raises(ModelError, match=r"^a needs 1\.1e-08 GB of memory, more than the 1e-08 GB"):
        models.lease([need("a", size=11)])
    with pytest.raises(ModelError, match=r"^a and b need .* use fewer or smaller models\.$"):
        models.lease([need("a", size=6), need("b", size=6), need("a", size=6)])
    with pytest.raises(
        ModelError,
        match=r"^a needs 1\.2e-08 GB of memory, 8e-09 GB of it for keys and values, more than the "
        r"1e-08 GB that models may take\. Raise the bound, or ask for fewer answers or tokens\.$",
    ):
        models.lease([need("a")], 8)


def test_a_model_counts_from_the_moment_it_is_asked_for(models, loads):
    loads.go.clear()
    lease = models.lease([need("a", size=8)])
    assert not lease.is_ready
    assert models.list() == ()
    assert models.lease([need("b")]) is None, "what is being read is in use"
    models.release(lease)
    assert models.lease([need("b")]) is None, "nor can it be let go before it is there"
    loads.go.set()
    lease.models[0].result(10)
    assert models.lease([need("b")]) is not None


def test_a_model_whose_files_changed_is_loaded_anew(models, loads):
    use(models, need("a", stamp=1))
    use(models, need("a", stamp=2))
    use(models, need("b"))
    assert loads.names == ["a", "a", "b"]
    assert [model.path for model in models.list()] == ["b", "a"]


def test_a_load_that_failed_is_tried_again(models, loads):
    loads.error = ModelError("no")
    lease = models.lease([need("a")])
    with pytest.raises(ModelError, match="no"):
        lease.models[0].result(10)
    assert lease.is_ready
    models.release(lease)
    loads.error = None
    assert use(models, need("a")) == ["a"]


def test_idle_models_are_let_go(models):
    use(models, need("a", size=2))
    lease = models.lease([need("b", size=2)])
    lease.models[0].result(10)
    models.drop_idle(60)
    assert held(models) == {"a", "b"}
    models.drop_idle(0)
    assert held(models) == {"b"}
    (left,) = models.list()
    assert left.in_use
    assert left.idle_seconds == 0
    models.release(lease)
    assert not models.list()[0].in_use


def test_whoever_waits_is_told_when_a_model_is_there(loads):
    told = threading.Event()
    loads.go.clear()
    models = ServedModels(10, CPU, told.set, loads)
    models.lease([need("a")])
    assert not told.wait(0.05)
    loads.go.set()
    assert told.wait(10)
