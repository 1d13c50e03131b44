"""From a logged configuration to one that is run here: nothing in it is looked up, and nothing is taken on trust."""

import json
import os
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from pipeline.config import as_dict, resolve
from pipeline.errors import RequestError
from pipeline.reproduction.restore import restore_config
from pipeline.tracking.logged import LoggedRun

URI = "sqlite:///mlruns/mlflow.db"
RUN = LoggedRun("0" * 32, "lr-batch", "complete", "", {}, {}, {}, None, "", "", "")
IMAGES = {
    "_target_": "pipeline.data.image_folder",
    "name": "images",
    "classes": 2,
    "shape": [3, 8, 8],
    "split_seed": 0,
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "augment": False,
    "loader_workers": 0,
}


@pytest.fixture
def logged(composed, monkeypatch):
    """A logged run of the composed configuration, with parts of it exchanged: `logged({"batch": 3}, "dataset=mnist")`."""
    monkeypatch.delenv("PIPELINE_DATA", raising=False)

    def make(changed=None, *overrides, **fields):
        config = as_dict(resolve(composed(*overrides))) | (changed or {})
        return replace(RUN, **{"config": OmegaConf.to_yaml(OmegaConf.create(config))} | fields)

    return make


def test_it_comes_back_as_it_was_but_for_where_it_is_tracked(logged, composed):
    before = as_dict(resolve(composed("batch=32", "model=simple_cnn", "optimizer=adamw")))
    config = as_dict(restore_config(logged({}, "batch=32", "model=simple_cnn", "optimizer=adamw"), URI))
    assert {key for key in before if config[key] != before[key]} <= {"tracking", "sweep", "runtime"}
    assert config["tracking"] == {"uri": URI, "experiment": "lr-batch", "checkpoints": "none", "log_model": "none"}


def test_the_runtime_is_the_one_that_was_used(logged):
    params = {
        "runtime.device": "cuda:1",
        "runtime.threads": "3",
        "runtime.precision": "bf16",
        "runtime.memory_format": "channels_last",
        "runtime.workers": "2",
        "runtime.compile": "True",
        "runtime.stack": "7",
        "runtime.other": "${oc.env:HOME}",
    }
    assert vars(restore_config(logged(params=params), URI).runtime) == {
        "device": "cuda:1",
        "threads": 3,
        "precision": "bf16",
        "memory_format": "channels_last",
        "workers": 2,
        "compile": True,
        "stack": 7,
    }


@pytest.mark.parametrize("name", ["${oc.env:SECRET}", "a ${oc.env:SECRET} b", "${", "${oc.env:SECRET", "${now:}"])
def test_an_experiments_name_that_would_be_looked_up_is_refused(logged, monkeypatch, name):
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(RequestError, match="rename the experiment") as refused:
        restore_config(logged(experiment=name), URI)
    assert "hunter2" not in str(refused.value)


def test_what_only_the_store_tells_is_put_in_when_nothing_is_looked_up_any_more(logged, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    config = restore_config(logged(experiment="???"), "sqlite:///${oc.env:SECRET}/mlflow.db")
    assert config.tracking.experiment == "???"
    assert "hunter2" not in json.dumps(as_dict(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "${oc.env:HOME}"),
        ("device", "${oc.env:HOME}\n"),
        ("device", "tpu; rm"),
        ("threads", "${oc.env:HOME}"),
        ("threads", "²"),
        ("threads", "0"),
        ("threads", "9" * 5000),
        ("precision", "fp8"),
        ("memory_format", "[/x]"),
        ("workers", "-1"),
        ("workers", "¾"),
        ("compile", "${oc.env:HOME}"),
    ],
)
def test_a_runtime_that_no_run_logs_is_refused_in_the_parameters_and_in_the_configuration(logged, composed, key, value):
    with pytest.raises(RequestError, match=rf"(?s)runtime\.{key}=.*no run logs such a value"):
        restore_config(logged(params={f"runtime.{key}": value}), URI)
    runtime = vars(resolve(composed()).runtime) | {key: value}
    with pytest.raises(RequestError):
        restore_config(logged({"runtime": runtime}), URI)


@pytest.mark.parametrize("node", [[1], "text", 3, None, []])
@pytest.mark.parametrize("key", ["dataset", "model", "optimizer", "runtime", "tracking"])
def test_what_is_no_group_of_keys_is_refused(logged, key, node):
    with pytest.raises(RequestError, match=f"not one of this version .{key} is no group of keys"):
        restore_config(logged({key: node}), URI)


@pytest.mark.parametrize(
    "changed",
    [{"batch": "many"}, {"unknown": 1}, {"budget": [1]}, {"scaling": "linear"}, {"seed": [0]}, {"batch": 1.5}],
)
def test_what_does_not_fit_the_schema_is_refused(logged, changed):
    with pytest.raises(RequestError, match="not one of this version"):
        restore_config(logged(changed), URI)


@pytest.mark.parametrize(
    ("group", "changed", "says"),
    [
        ("model", {"_recursive_": "x"}, "model._recursive_=x: it must be true or false"),
        ("dataset", {"_partial_": "x"}, "dataset._partial_=x: it must be true or false"),
        ("optimizer", {"_partial_": 1}, "optimizer._partial_=1: it must be true or false"),
        ("model", {"_convert_": "foo"}, "model._convert_=foo: it must be none, partial, object or all"),
        ("model", {"_args_": "x"}, "model._args_=x: it must be a list"),
        ("model", {"_target_": {}}, "model._target_={}: it must be the name of a class or function"),
        (
            "model",
            {"_args_": [{"a": {"_target_": "torch.nn.Linear", "_recursive_": None}}]},
            "model._args_.0.a._recursive_=None: it must be true or false",
        ),
    ],
)
def test_a_wrong_value_of_a_key_of_instantiate_is_refused(logged, composed, group, changed, says):
    node = getattr(resolve(composed()), group) | changed
    with pytest.raises(RequestError) as refused:
        restore_config(logged({group: node}), URI)
    assert says in str(refused.value)


def test_a_value_that_no_run_can_have_is_refused_as_on_the_command_line(logged):
    with pytest.raises(RequestError, match="batch=0: a number of examples"):
        restore_config(logged({"batch": 0}), URI)


def root_of(run, *trusted):
    return restore_config(run, URI, trusted).dataset["root"]


def test_nothing_is_ever_downloaded_into_a_folder_that_was_logged(logged, tmp_path, monkeypatch):
    there = logged({}, "dataset=mnist", f"dataset.root={tmp_path}")
    assert root_of(there) == "data"
    monkeypatch.setenv("PIPELINE_DATA", "/my/data")
    assert root_of(there) == "/my/data"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long  # the short tests need no package of Debian's
def test_a_data_set_that_lies_whole_where_it_was_is_read_there(logged, tmp_path):
    from pipeline.data.torchvision_images import _unpack_debian

    _unpack_debian(tmp_path / "FashionMNIST" / "raw")
    assert root_of(logged({}, "dataset=fashion_mnist", f"dataset.root={tmp_path}")) == str(tmp_path)


def test_images_are_read_below_pipeline_data_or_where_the_user_says_so(logged, tmp_path, monkeypatch):
    mine, other = tmp_path / "mine", tmp_path / "other"
    (mine / "birds").mkdir(parents=True)
    other.mkdir()
    (mine / "link").symlink_to(other)

    def images(root):
        return logged({"dataset": IMAGES | {"root": str(root)}})

    with pytest.raises(RequestError, match=r"(?s)which is not set.*--trust pipeline\.data\.image_folder"):
        root_of(images(mine))
    monkeypatch.setenv("PIPELINE_DATA", str(mine))
    assert root_of(images(mine / "birds")) == str(mine / "birds")
    for outside in (other, mine / "link", f"{mine}/../other", os.sep, f"{tmp_path}/mineral"):
        os.makedirs(outside, exist_ok=True)
        with pytest.raises(RequestError, match="reads images below PIPELINE_DATA only"):
            root_of(images(outside))
        assert root_of(images(outside), "pipeline.data.image_folder") == str(outside)
    assert root_of(images("/another/machines")) == str(mine)
    with pytest.raises(RequestError, match="must be the path of a folder"):
        root_of(logged({"dataset": IMAGES | {"root": 3}}))
