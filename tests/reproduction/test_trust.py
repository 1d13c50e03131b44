"""A logged configuration comes from somewhere: it may build what is listed, and nothing else."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config import as_dict, conf_dir, resolve
from pipeline.errors import RequestError
from pipeline.reproduction.trust import IMAGE_SETS, check_trusted, parse_logged


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model=simple_cnn", "optimizer=adamw"),
        ("model=resnet18", "optimizer=nesterov", "dataset=fashion_mnist"),
        ("optimizer=adam", "dataset=cifar10"),
    ],
)
def test_the_projects_own_configurations_are_trusted_and_come_back_as_they_were(composed, overrides):
    config = as_dict(resolve(composed(*overrides)))
    check_trusted(config)
    assert parse_logged(OmegaConf.to_yaml(OmegaConf.create(config))) == config


@pytest.mark.parametrize("group", ["dataset", "model", "optimizer"])
def test_every_choice_of_the_project_is_trusted(group):
    for file in (Path(conf_dir()) / group).glob("*.yaml"):
        node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        target = node.get(group, node)["_target_"]
        if target != "???":
            check_trusted({group: {"_target_": target}})


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("optimizer", "torch.optim.RMSprop"),
        ("model", "torch.nn.Linear"),
        ("model", "torch.nn.Sequential"),
        ("model", "torchvision.models.resnet50"),
        ("model", "pipeline.models.MLP"),
    ],
)
def test_layers_optimizers_and_torchvisions_models_are_trusted(group, target):
    check_trusted({group: {"_target_": target}})


def test_layers_are_trusted_inside_of_layers():
    layer = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    check_trusted({"model": {"_target_": "torch.nn.Sequential", "_args_": [layer, {"b": layer}]}})


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"_target_": "pipeline.models.MLP", "extra": {"_target_": "pipeline.data.torchvision_images"}}},
        {"model": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "pipeline.data.image_folder"}]}},
        {"optimizer": {"_target_": "torch.optim.SGD", "params": {"_target_": "pipeline.data.digits"}}},
        {"optimizer": {"_target_": "torch.optim.SGD", "params": [{"_target_": "torch.nn.Linear"}]}},
        {"dataset": {"_target_": "pipeline.data.digits", "name": {"_target_": "pipeline.data.torchvision_images"}}},
        {"dataset": {"_target_": "pipeline.data.digits", "shape": [{"_target_": "torchvision.models.resnet50"}]}},
        {"dataset": {"_target_": "pipeline.models.MLP"}},
        {"model": {"_target_": "torch.optim.SGD"}},
        {"schedule": {"_target_": "torch.nn.Linear"}},
    ],
)
def test_what_is_listed_is_built_in_its_own_place_alone(config):
    with pytest.raises(RequestError, match=r"alone, not here\.\nIf you know it and trust it here, too: --trust"):
        check_trusted(config)


def test_what_the_user_trusts_is_built_in_any_place():
    check_trusted({"model": {"_target_": "torch.optim.SGD"}}, ["torch.optim.SGD"])


def test_arguments_of_a_data_set_have_names_which_its_checks_go_by():
    dataset = {"_target_": "pipeline.data.torchvision_images", "_args_": ["imagenet", "ImageNet", "/etc"]}
    with pytest.raises(RequestError, match=r"dataset\._args_=.*has its data set's arguments by name"):
        check_trusted({"dataset": dataset})
    check_trusted({"dataset": dataset | {"_target_": "mine.images"}}, ["mine.images"])


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.nn.os.system",
        "torch.nn.functional.relu",
        "torch.nn.modules.module.torch.load",
        "torch.optim.optimizer.torch.hub.load",
        "torch.optim.lr_scheduler.LambdaLR",
        "torch.nn.Module.load_state_dict",
        "torch.nn.init",
        "torch.jit.load",
        "torch.utils.cpp_extension.load",
        "torch.distributed.rpc.remote",
        "torchvision.models.get_model",
        "torchvision.models.resnet50.os",
        "torchvision.datasets.FakeData",
        "pipeline.data.splits.torch.load",
        "pipeline.data.contextlib",
        "pipeline.models.mlp.MLP",
        "pipeline.train.main",
        "hydra.utils.get_method",
        "hydra.utils.instantiate",
        "Linear",
        "",
        None,
        7,
        ["os.system"],
    ],
)
def test_nothing_else_is(target):
    for config in (
        {"model": {"_target_": target}},
        {"optimizer": {"_target_": "torch.optim.SGD", "params": [{"_target_": target}]}},
        {"model": {"_target_": "torch.nn.Sequential", "a": {"b": {"_target_": target}}}},
    ):
        with pytest.raises(RequestError, match="--trust"):
            check_trusted(config)


def test_a_name_that_the_user_trusts_is_built_and_only_that_one():
    config = {"model": {"_target_": "mine.Net"}}
    check_trusted(config, ["mine.Net"])
    with pytest.raises(RequestError, match=r"mine\.Net"):
        check_trusted(config, ["mine.Ne", "mine"])


def reading(source):
    return {"dataset": {"_target_": "pipeline.data.torchvision_images", "source": source}}


@pytest.mark.parametrize(
    "source", ["utils", "__builtins__", "folder", "os", 3, ["MNIST"], {}, "CIFAR100", "ImageNet", "FakeData", "EMNIST"]
)
def test_a_data_set_that_is_none_of_this_projects_is_refused(source):
    with pytest.raises(RequestError, match=r"dataset\.source"):
        check_trusted(reading(source))


def test_another_one_of_torchvisions_may_be_trusted_by_name_and_nothing_else_of_it():
    check_trusted(reading("CIFAR100"), ["CIFAR100"])
    for source in ("utils", "__name__", "os"):
        with pytest.raises(RequestError, match=r"dataset\.source"):
            check_trusted(reading(source), [source])


def test_the_data_sets_that_are_trusted_are_those_of_the_projects_own_configurations():
    nodes = [OmegaConf.load(file) for file in Path(conf_dir(), "dataset").glob("*.yaml")]
    assert sorted(node.source for node in nodes if "source" in node) == sorted(IMAGE_SETS)


@pytest.mark.parametrize(
    "asked",
    [
        {"weights": "IMAGENET1K_V1"},
        {"weights": "DEFAULT"},
        {"weights_backbone": "DEFAULT"},
        {"pretrained": True},
        {"pretrained_backbone": True},
        {"_args_": ["DEFAULT"]},
    ],
)
def test_weights_that_would_be_downloaded_and_unpickled_are_refused_unless_trusted(asked):
    node = {"_target_": "torchvision.models.resnet18"} | asked
    for config in ({"model": node}, {"model": {"_target_": "torch.nn.Sequential", "_args_": [node]}}):
        with pytest.raises(RequestError, match=r"(?s)download weights.*--trust torchvision\.models\.resnet18"):
            check_trusted(config)
        check_trusted(config, ["torchvision.models.resnet18"])
    check_trusted({"model": {"_target_": "torchvision.models.resnet18", "weights": None, "num_classes": 3}})


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [id]",
        "a: &a [1, 2]\nb: [*a, *a]",
        "a: ${oc.env:HOME}",
        "a: {b: ['x${now:}']}",
        "- 1\n- 2",
        "just text",
        "a: [1",
        "1: 2",
        "a: {1: 2}",
        "a: 0x" + "f" * 5000,
        "a: " + "9" * 5000,
        "a: 9223372036854775808",
        "a: " + "[" * 100 + "]" * 100,
        "[" * 100_000,
        "a: " + "{b: " * 1000 + "1" + "}" * 1000,
        "a: 2001-01-01",
        "a: !!timestamp x",
        "a: !!str 1",
        "a: !!set {b}",
        'a: "\\e[31mred"',
        'a: "\\0"',
        '"a\\e[31m": 1',
        "a: " + "x" * 300_000,
        "",
    ],
)
def test_what_is_no_plain_configuration_is_refused(text):
    with pytest.raises(RequestError, match=r"config/config\.yaml"):
        parse_logged(text)
