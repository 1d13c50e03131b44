"""Configuration: the composed tree shows what will be used."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from pipeline import config
from pipeline.config import as_dict, as_yaml, flatten, resolve
from pipeline.config.checks import warn_linear_adam
from pipeline.errors import RequestError
from pipeline.recipe.scaling import RULES


def choices(group):
    """The choices of a configuration group, by its files."""
    return sorted(path.stem for path in (Path(config.conf_dir()) / group).glob("*.yaml"))


def test_the_composed_config_shows_the_lr_that_the_rule_gives(composed):
    assert composed("batch=256").optimizer.lr == pytest.approx(0.4)
    assert composed("batch=256", "scaling=sqrt").optimizer.lr == pytest.approx(0.2)
    assert composed("batch=256", "scaling=fixed").optimizer.lr == pytest.approx(0.1)
    assert composed("batch=16", "scaling.base_batch=32", "optimizer.base_lr=0.2").optimizer.lr == pytest.approx(0.1)


def test_an_explicit_lr_replaces_the_rule_and_is_not_scaled_again(composed):
    assert composed("batch=256", "optimizer.lr=0.3").optimizer.lr == 0.3


def test_adam_and_adamw_bring_the_square_root_unless_a_rule_is_named(composed):
    for optimizer in ("adam", "adamw"):
        assert composed(f"optimizer={optimizer}", "batch=256").optimizer.lr == pytest.approx(0.002)
        assert composed(f"optimizer={optimizer}", "scaling=linear", "batch=256").optimizer.lr == pytest.approx(0.004)


def test_adam_sde_changes_betas_and_epsilon_too(composed):
    resolved = resolve(composed("optimizer=adamw", "scaling=adam_sde", "batch=256"))
    assert resolved.optimizer["betas"] == pytest.approx([0.6, 0.996])
    assert resolved.optimizer["eps"] == pytest.approx(5e-9)


def test_adam_sde_with_an_optimizer_without_betas_is_refused(composed):
    with pytest.raises(RequestError, match=r"optimizer=adam or adamw"):
        resolve(composed("scaling=adam_sde"))


@pytest.mark.parametrize("dataset", choices("dataset"))
@pytest.mark.parametrize("model", sorted(set(choices("model")) - {"custom"}))
def test_every_data_set_and_model_composes_and_resolves(composed, dataset, model):
    extra = ["dataset.root=/images", "dataset.classes=3"] if dataset == "image_folder" else []
    resolved = resolve(composed(f"dataset={dataset}", f"model={model}", *extra))
    assert resolved.model["shape"] == resolved.dataset["shape"]
    assert resolved.model["classes"] == resolved.dataset["classes"]


@pytest.mark.parametrize("rule", choices("scaling"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_rule_composes_with_every_optimizer_it_fits(composed, rule, optimizer):
    if RULES[rule].scales_adam and optimizer in ("sgd", "nesterov"):
        return  # refused: see above
    extra = {
        "power": ["scaling.exponent=0.7"],
        "saturating": ["scaling.noise_scale=500"],
        "surge": ["scaling.noise_scale=500"],
    }
    resolved = resolve(composed(f"scaling={rule}", f"optimizer={optimizer}", "batch=128", *extra.get(rule, [])))
    assert resolved.optimizer["lr"] > 0


def test_every_rule_can_be_chosen_by_its_name():
    assert set(choices("scaling")) == set(RULES)


def test_an_unknown_key_is_refused(composed):
    for override in ("optimizer.momentun=0.9", "scaling.foo=1", "budget.epoch=3", "foo=1"):
        with pytest.raises(ConfigCompositionException):
            composed(override)


def test_a_key_that_was_added_is_refused_but_as_an_argument_of_data_set_model_or_optimizer(composed):
    resolved = resolve(composed("+dataset.more=1", "+model.more=2", "+optimizer.more={deep:3}"))
    assert (resolved.dataset["more"], resolved.model["more"], resolved.optimizer["more"]) == (1, 2, {"deep": 3})
    for override in ("+foo=1", "+scaling.foo=1", "+noise_scale.foo=1", "+sweep.foo=1", "+report.foo={epochs:1}"):
        with pytest.raises(RequestError, match=r"foo: there is no such key\.\n"):
            resolve(composed(override))


def test_a_deleted_key_takes_the_schemas_default_or_is_named(composed):
    assert resolve(composed("~seed", "~report")) == resolve(composed())
    with pytest.raises(RequestError, match=r"batch is not set.*\n.*batch=VALUE"):
        resolve(composed("~batch"))


def test_a_missing_value_is_named_with_the_way_to_set_it(composed):
    with pytest.raises(RequestError, match=r"dataset\.root is not set.*\n.*dataset\.root=VALUE"):
        resolve(composed("dataset=image_folder"))


def test_a_sweeps_name_stays_when_batch_seed_or_lr_change_and_no_other(composed):
    name = composed().sweep.name
    for same in (
        "batch=256",
        "seed=5",
        "optimizer.lr=0.7",
        "runtime.threads=3",
        "tracking.experiment=x",
        "report.margin=1%",
        "noise_scale.epochs=[1,-1]",
    ):
        assert composed(same).sweep.name == name
    for other in (
        "budget.epochs=6",
        "optimizer.momentum=0.8",
        "scaling=sqrt",
        "model.hidden=[64]",
        "dataset.split_seed=1",
    ):
        assert composed(other).sweep.name != name
    assert name.startswith("digits-mlp-sgd-")


def test_a_users_own_model_starts_from_an_empty_node(composed):
    cfg = composed("model=custom", "model._target_=torch.nn.Identity", "+model.width=3")
    assert OmegaConf.to_container(cfg.model) == {"_target_": "torch.nn.Identity", "width": 3}


@pytest.mark.parametrize("overrides", [[], ["experiment=fashion_mnist"], ["optimizer=adamw", "scaling=adam_sde"]])
def test_a_configuration_is_written_as_omegaconf_writes_it(composed, overrides):
    odd = {
        "text": ["1e3", "yes", "null", "ü: x", "a\nb", ""],
        "number": [1e-7, 3, float("inf"), True, None],
        "empty": {},
    }
    for config_ in (as_dict(resolve(composed(*overrides))), odd):
        assert as_yaml(config_) == OmegaConf.to_yaml(OmegaConf.create(config_))


def test_flatten_gives_dotted_keys_and_keeps_lists():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_an_experiment_overrides_the_main_config_and_the_command_line_overrides_the_experiment(composed):
    assert composed("experiment=fashion_mnist").search.octaves == 7
    assert composed("experiment=fashion_mnist", "search.octaves=3").search.octaves == 3
    assert composed("experiment=fashion_mnist", "model=simple_cnn").model._target_ == "pipeline.models.SimpleCNN"
    assert composed("experiment=linear_rule").search.octaves == 5


def test_the_main_job_asks_what_it_says():
    with initialize_config_dir(config.conf_dir(), version_base="1.3"):
        cfg = compose("config", ["experiment=linear_rule"], return_hydra_config=True)
    sweeper = cfg.hydra.sweeper
    assert (sweeper.n_trials, sweeper.params.batch, sweeper.params.seed) == (12, "4,8,16,32,64,128,256,512", "0-15")
    assert sweeper.params["optimizer.lr"] == "tag(log, interval(0.00625, 6.4))"
    assert sweeper.params["tracking.checkpoints"] == "none"
    assert (cfg.budget.epochs, cfg.schedule.name, cfg.schedule.warmup_fraction) == (5, "cosine", 0.05)


def test_the_linear_rule_with_adam_is_warned_about_and_other_pairs_are_not(composed, caplog):
    for overrides, warned in (
        (["optimizer=adamw", "scaling=linear"], True),
        (["optimizer=adamw"], False),
        (["optimizer=sgd", "scaling=linear"], False),
    ):
        caplog.clear()
        warn_linear_adam(resolve(composed(*overrides)))
        assert ("scaling=sqrt" in caplog.text) is warned
