"""A job's configuration made from its cell's equals the composed one."""

import os

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from lr_study.cell_loader import CellLoader, replicate_values
from lr_study.space import Request, read_request
from pipeline import config
from tests.lr_study import app  # noqa: F401  (its configuration)


@pytest.fixture(scope="module", params=["project", "app"])
def swept(request):
    """(loader, master configuration, cells, overrides of a job) of the project and of another app."""
    GlobalHydra.instance().clear()
    if request.param == "project":
        config.register()
        path, name = config.conf_dir(), "config"
        arguments = ["batch=32,64", "optimizer=sgd,adam", "seed=0,1"]
        values = ["sweep.parent=abc123", "optimizer.lr=0.0123", "seed=1"]
    else:
        path, name = None, "app_config"
        arguments = ["size=1,2", "method=adam", "x=interval(0.5,2.0)", "+new=3,4"]
        values = ["x=1.25e-05", "seed=2"]
    hydra = Hydra.create_main_hydra2(task_name="app", config_search_path=create_config_search_path(path))
    loader = hydra.config_loader
    master = loader.load_configuration(name, [*arguments, "hydra.sweep.dir=${now:%H%M%S%f}"], RunMode.MULTIRUN)
    assert master.hydra.sweep.dir  # resolved once for the whole sweep
    yield loader, master, read_request(master, loader, arguments).cells, values
    GlobalHydra.instance().clear()


def plain(composed):
    return OmegaConf.to_container(composed, resolve=False), composed.hydra.sweep.dir


def test_a_jobs_configuration_equals_hydras_own_composition(swept):
    loader, master, cells, values = swept
    short = CellLoader(loader)
    short.know(cells)
    for cell in cells:
        overrides = [*(text for _, text in cell.overrides), *values]
        expected = loader.load_sweep_config(master, overrides)
        given = short.load_sweep_config(master, overrides)
        assert plain(given) == plain(expected)
        assert OmegaConf.is_struct(given) == OmegaConf.is_struct(expected)
        assert given.hydra.runtime.cwd == os.getcwd()
        assert OmegaConf.to_container(given, resolve=False) is not None


def test_a_known_cell_with_other_values_is_not_composed(swept):
    loader, master, cells, values = swept
    short = CellLoader(loader)
    short.know(cells)
    short._loader = None  # composing would fail
    given = short.load_sweep_config(master, [*(text for _, text in cells[0].overrides), *values])
    assert list(given.hydra.overrides.task)[-len(values) :] == values


@pytest.mark.parametrize("override", ["+added=1", "~seed", "hydra.job.name=other"])
def test_an_override_that_is_more_than_a_new_value_is_composed(swept, override):
    loader, master, cells, values = swept
    short = CellLoader(loader)
    short.know(cells)
    overrides = [*(text for _, text in cells[0].overrides), *values[:1], override]
    assert plain(short.load_sweep_config(master, overrides)) == plain(loader.load_sweep_config(master, overrides))


def test_an_unknown_key_is_refused_as_hydra_refuses_it(swept):
    loader, master, cells, _ = swept
    short = CellLoader(loader)
    short.know(cells)
    overrides = [*(text for _, text in cells[0].overrides), "nope=1"]
    with pytest.raises(Exception, match="nope"):
        short.load_sweep_config(master, overrides)


def test_replicates_are_checked_without_composing(swept):
    _, master, cells, _ = swept
    master = OmegaConf.merge(master, {"hydra": {"sweeper": {"replicate_key": "seed"}}})
    request = Request(cells, tuple(str(seed) for seed in range(300)))
    assert replicate_values(None, master, request) == list(range(300))  # composing would fail
    assert replicate_values(None, master, Request(cells, (None,))) == []
