"""Wrong requests: exit code 2, two lines at most, nothing left behind."""

import sys

import pytest

from pipeline import train

REFUSED = [
    # overrides, what the message must name
    ("batch=0", ["batch=0", "from 1 up"]),
    ("batch=-4", ["batch=-4"]),
    ("batch=5000", ["batch=5000", "1077", "from 1 to 1077"]),
    ("batch=abc", ["batch=abc", "Integer"]),
    ("batch=2.5", ["batch=2.5", "Integer"]),
    ("seed=-1", ["seed=-1"]),
    ("scaling=liner", ["liner", "linear, power"]),
    ("scaling.rule=liner", ["liner", "fixed, linear, sqrt"]),
    ("scaling.base_batch=0", ["scaling.base_batch=0"]),
    ("scaling=power", ["scaling.exponent"]),
    ("scaling=saturating scaling.noise_scale=-5", ["scaling.noise_scale=-5"]),
    ("scaling=adam_sde", ["adam or adamw"]),
    ("optimizer=adamw scaling=adam_sde batch=640", ["at most 639"]),
    ("model=transformer", ["transformer", "mlp, resnet18, simple_cnn"]),
    ("model._target_=no.such.Net", ["no.such.Net"]),
    ("model._target_=torch.nn.Linear", ["torch.nn.Linear", "model=custom"]),
    ("model=custom", ["model._target_"]),
    ("+model._recursive_=x", ["model._recursive_=x", "true or false"]),
    ("optimizer._partial_=x", ["optimizer._partial_=x", "true or false"]),
    ("+model._args_=[{_target_:3}]", ["model._args_.0._target_=3", "name of a class or function"]),
    ("model=custom model._target_=torch.nn.Identity", ["model has no parameters"]),
    ("model=custom model._target_=torch.nn.Flatten", ["model has no parameters to train"]),
    ("dataset.shape=[1,9,9]", ["1×8×8"]),
    ("model=resnet18 batch=1", ["batch=1: a forward pass of training gets 1 example(s)", "Use, for example, batch=2."]),
    ("dataset.val_examples=5000", ["less than 1797"]),
    ("optimizer=lion", ["lion", "adam, adamw, nesterov, sgd"]),
    ("optimizer.lr=-0.1", ["optimizer.lr=-0.1", "above 0"]),
    ("optimizer.lr=nan", ["optimizer.lr=nan"]),
    ("~optimizer.lr", ["optimizer.base_lr=0.1 is set", "lr: ${scaled_lr:}"]),
    ("optimizer.base_lr=-0.1", ["optimizer.base_lr=-0.1"]),
    ("optimizer.momentum=-1", ["momentum"]),
    ("optimizer.momentun=0.9", ["optimizer.momentun", "no such key"]),
    ("schedule=cosin", ["constant, cosine, linear, step"]),
    ("schedule.warmup_epochs=1", ["exclude each other"]),
    ("schedule.gamma=0.5", ["schedule.gamma"]),
    ("budget=epochs budget.epochs=0", ["budget.epochs=0"]),
    ("budget=target budget.metric=accuracy", ["val/error"]),
    ("objective=accuracy", ["val/loss, val/error"]),
    ("batching.micro_batch=0", ["batching.micro_batch=0"]),
    ("batching.micro_batch=half", ["batching.micro_batch=half", "auto, null or a number"]),
    ("noise_scale.epochs=[0]", ["noise_scale.epochs=[0]", "1 the first and -1 the last", "[1,-1]"]),
    ("noise_scale.epochs=[1.5]", ["noise_scale.epochs[0]=1.5", "Integer"]),
    ("noise_scale.epochs=[true]", ["noise_scale.epochs[0]=True", "Integer"]),
    ("noise_scale.epochs=3", ["noise_scale.epochs=3", "must be a list", "noise_scale.epochs=[3]"]),
    ("noise_scale.epochs=null", ["noise_scale.epochs=null", "must have a value"]),
    ("noise_scale.epochs=[1,6]", ["6 lies beyond", "there are 5", "-1 to -5"]),
    ("noise_scale.epochs=[-3] budget.epochs=2", ["-3 lies beyond", "there are 2"]),
    ("noise_scale.examples=1", ["noise_scale.examples=1", "at least 2"]),
    ("noise_scale.examples=many", ["noise_scale.examples=many", "Integer"]),
    ("noise_scale.epochs=[-1] noise_scale.examples=5000", ["noise_scale.examples=5000", "2 to 1077"]),
    ("tracking.checkpoints=all", ["best, last, both, none"]),
    ("tracking.uri=ftp://host/x", ["sqlite:///PATH.db"]),
    ("tracking.uri=http://me:hunter2@h:abc", ["http://me:***@h:abc", "a number as the port"]),
    ("tracking.uri=databricks://profile", ["Databricks is not supported"]),
    ("runtime.device=tpu9", ["runtime.device=tpu9"]),
    ("runtime.threads=0", ["runtime.threads=0"]),
    ("report.margin=-1%", ["report.margin=-1%"]),
    ("report.confirm.looks=[1]", ["report.confirm.looks=[1]", "from 2 up", "[] for no confirmation"]),
    ("report.confirm.looks=[12,12]", ["report.confirm.looks=[12, 12]", "each larger than the one before"]),
    ("report.confirm.runs=0", ["report.confirm.runs=0", "the first look, of 12 pairs, takes 24 or more"]),
    ("report.confirm.seconds=0", ["report.confirm.seconds=0"]),
    ("runtime.stack=0", ["runtime.stack=0", "from 1 up"]),
    ("runtime.stack=many", ["runtime.stack=many", "auto"]),
    ("seed=3-1", ["seed=3-1", "1-3"]),
    ("seed=0-", ["seed=0-", "0-11"]),
    ("seed=0-2 resume=auto", ["resume=auto needs runs of one seed each", "seed=0-2"]),
    ("seed=0-2 runtime.workers=2", ["runtime.workers=2 needs runs of one seed each"]),
    ("seed=0-2 tracking.log_model=best", ["tracking.log_model=best needs runs of one seed each"]),
    ("scaling.base_lr_tuned=true ~optimizer.base_lr optimizer.lr=0.1", ["scaling.base_lr_tuned=true", "base_lr"]),
    ("dataset.split_seed=mine", ["dataset.split_seed=mine", "replicate"]),
    ("dataset=image_folder", ["dataset.root"]),
    ("dataset=image_folder dataset.root=/nowhere dataset.classes=3", ["/nowhere", "train/CLASS/IMAGE"]),
    ("batch=1,2", ["batch=1,2", "-m"]),
    ("foo=1", ["foo", "no such key"]),
    ("+foo=1", ["foo: there is no such key.\nSee the keys there are"]),
    ("+loss=mse", ["loss: there is no such key.\n"]),
    ("+tracking.foo=1", ["tracking.foo: there is no such key.\n"]),
    ("+budget.foo=2", ["budget.foo: there is no such key.\n"]),
    ("+scaling.foo=2", ["scaling.foo: there is no such key.\n"]),
    ("++batch_size=3", ["batch_size: there is no such key. Did you mean batch?"]),
    ("+momentum=0.9", ["momentum: there is no such key. Did you mean optimizer.momentum?"]),
    ("+runtime.thread=3", ["runtime.thread: there is no such key. Did you mean runtime.threads?"]),
    ("+model.foo=1", ["model", "unexpected keyword argument 'foo'"]),
    ("~batch", ["batch is not set", "Set it: batch=VALUE"]),
    ("~scaling", ["scaling is not set", "Set it: scaling=VALUE"]),
    ("~noise_scale", ["noise_scale is not set"]),
    ("~budget budget.epochs=1", ["budget is not set"]),
    ("batch", ["batch", "key=value"]),
]
# In a sweep every cell is checked before any folder, run or study is made.
REFUSED_SWEEPS = [
    ("batch=64,0", ["batch=0"]),
    ("batch=64,abc", ["batch=abc"]),
    ("scaling=linear,liner", ["liner"]),
    ("model=mlp,transformer", ["transformer"]),
    ("optimizer.lr=interval(0.1,0.01)", ["smaller to a larger"]),
    ("optimizer.lr=tag(log,interval(0,0.01))", ["above 0"]),
    ("optimizer.lrr=interval(0.1,1.0)", ["optimizer.lrr"]),
    ("+foo=1", ["foo: there is no such key.\n"]),
    ("+batch_size=32,64", ["batch_size: there is no such key. Did you mean batch?"]),
    ("+foo=interval(0.0,1.0)", ["foo: there is no such key.\n"]),
    ("+scaling.foo=1", ["scaling.foo: there is no such key.\n"]),
    ("~batch", ["batch: there is no such key"]),
    ("~scaling", ["scaling is not set"]),
    ("batch=64,128 noise_scale.epochs=[6]", ["6 lies beyond", "there are 5"]),
    ("noise_scale.epochs=[0]", ["noise_scale.epochs=[0]"]),
    ("search.octaves=-1", ["search.octaves=-1|smaller to a larger"]),
    ("optimizer.lr=interval(0.1,0.1)", ["smaller to a larger"]),
    ("batch=range(8,8)", ["batch=range(8,8)", "no values"]),
    ("model=glob(zzz*)", ["no values"]),
    ("model=resnet18 batch=64,1", ["batch=1: a forward pass of training gets 1 example(s)"]),
    ("+optimizer._convert_=foo", ["optimizer._convert_=foo", "none, partial, object or all"]),
    ("seed=interval(0,3)", ["replicates are listed"]),
    ("seed='a','b'", ["seed=a", "whole number from 0 up"]),
    ("seed=0,1,-1", ["seed=-1", "whole number from 0 up"]),
    ("seed=range(-2,2) optimizer.lr=0.1,0.2", ["seed=-2", "whole number from 0 up"]),
    ("seed=1.5", ["seed=1.5"]),
    ("seed=null", ["seed=null", "must have a value"]),
    ("seed=", ["seed=", "whole number from 0 up"]),
    ("seed=[0,1]", ["seed=[0,1]", "incompatible"]),
    ("+hydra.sweeper.params.seed='0,x'", ["seed=x", "whole number from 0 up"]),
    ("hydra.sweeper.replicate_key=null seed=0,-1", ["seed=-1", "whole number from 0 up"]),
    ("hydra.sweeper.replicate_key=model model=mlp,nope", ["model/nope", "mlp, resnet18, simple_cnn"]),
    ("hydra.sweeper.replicate_key=objective objective=val/loss,accuracy", ["objective=accuracy", "val/error"]),
    ("hydra/sweeper/sampler=best", ["best", "cmaes, gp, grid, qmc, random, spread, tpe"]),
    ("hydra/sweeper/pruner=best", ["best", "far, hyperband, median, none, successive_halving"]),
    ("hydra.sweeper.sampler._target_=optuna.samplers.Nope", ["optuna.samplers", "Nope", "Ready to choose"]),
    ("hydra.sweeper.sampler._target_=json.JSONDecoder", ["not an Optuna sampler"]),
    ("hydra/sweeper/sampler=tpe +hydra.sweeper.sampler.startup=3", ["TPESampler", "startup"]),
    ("hydra.sweeper.pruner._target_=json.JSONDecoder", ["pruner"]),
    ("hydra.sweeper.n_trials=0", ["n_trials=0"]),
    ("hydra.sweeper.widenings=-1", ["widenings=-1"]),
    ("hydra.sweeper.workers=0", ["workers=0"]),
    ("hydra.sweeper.direction=down", ["direction=down", "minimize or maximize"]),
    ("hydra.sweeper.direction=maximize", ["direction=maximize", "the lower it is the better"]),
    ("optimizer.lr=0.1,0.2 hydra.sweeper.direction=[maximize]", ["direction=['maximize']", "Leave this key out"]),
    ("hydra.sweeper.direction=[minimize,minimize]", ["no pruner works with 2 objectives"]),
    (
        "hydra.sweeper.direction=[minimize,minimize] hydra/sweeper/pruner=none hydra/sweeper/sampler=random",
        ["direction=['minimize', 'minimize']", "one objective"],
    ),
    ("hydra.sweeper.storage=/proc/version", ["/proc/version"]),
    ("hydra.sweeper.storage=/etc", ["/etc", "folder"]),
    ("hydra.sweeper.storage=/etc/passwd", ["/etc/passwd", "not an Optuna journal|no permission"]),
    ("hydra.sweeper.storage='postgresql://me:hunter2@127.0.0.1:1/x'", ["postgresql://me:***@", "reached|psycopg"]),
    ("hydra.sweeper.storage='postgresql://me:hunter2@h:abc/x'", ["no database URL"]),
    ("hydra.sweeper.storage='oracle+nothing://me:hunter2@h/x'", ["no database URL|needs the package"]),
    ("hydra.sweeper.storage='://'", ["no database URL"]),
    ("sweep.name='postgresql://u:hunter2@h/x'", ["sweep.name='postgresql://u:***@h/x'", "none of"]),
    ("sweep.name=..", ["sweep.name='..'", "a folder"]),
    ("sweep.name=", ["sweep.name=''", "1 to 255 bytes"]),
    ("hydra.sweeper.name=mine", ["hydra.sweeper.name=mine", "sweep.name=NAME"]),
]


@pytest.fixture
def refused(call_command):
    """Call the command in an empty folder; returns what it printed."""

    def call(*arguments):
        done = call_command(train.main, *arguments)
        assert (done.code, done.out) == (2, ""), done
        assert 1 <= len(done.err.strip().splitlines()) <= 2, done.err
        return done.err

    return call


def check(said, names):
    for name in names:
        assert any(choice in said for choice in name.split("|")), said


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ("batch=64,", ["batch=64,", "Write key=value"]),
        ("batch=６４", ["not understood", "Write key=value"]),
        ("tracking.uri=sqlite:///:memory:", ["a database in memory is gone with its process", "Name a file"]),
    ],
)
def test_what_only_looks_like_a_value_is_refused(refused, tmp_path, overrides, names):
    check(refused(overrides), names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import sys; sys.exit(3)", ["model._target_=leaving.Net", "sys.exit(3)"]),
        ("class Net(torch.nn.Flatten): pass", ["model has no parameters to train"]),
    ],
    ids=["leaves", "without parameters"],
)
def test_a_model_of_the_users_own_that_cannot_be_trained_is_refused(refused, tmp_path, monkeypatch, code, names):
    (tmp_path / "leaving.py").write_text(f"import torch\n{code}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "leaving", raising=False)
    check(refused("model=custom", "model._target_=leaving.Net"), names)
    assert not (tmp_path / "mlruns").exists()


def test_a_model_that_changes_the_folder_has_its_run_where_the_command_was_started(run_python, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    net = "class Net(torch.nn.Sequential):\n    def __init__(self):\n        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))"
    code = f"import os, torch\nos.chdir({str(tmp_path / 'elsewhere')!r})\n{net}\n"
    (tmp_path / "moving.py").write_text(code, encoding="utf-8")
    done = run_python("-m", "pipeline.train", "model=custom", "model._target_=moving.Net", "budget.epochs=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlruns" / "mlflow.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("overrides", "names"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_request_is_refused(refused, tmp_path, overrides, names):
    check(refused(*overrides.split(" ")), names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("overrides", "names"), REFUSED_SWEEPS, ids=[case[0] for case in REFUSED_SWEEPS])
def test_a_wrong_sweep_is_refused(refused, tmp_path, overrides, names):
    check(refused("-m", *overrides.split(" ")), names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_a_file_in_the_place_of_mlruns_is_refused_and_kept(refused, tmp_path, mode):
    (tmp_path / "mlruns").write_text("mine")
    check(refused(*mode), ["mlruns", "is not a folder"])
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
    assert (tmp_path / "mlruns").read_text() == "mine"


def test_data_that_cannot_be_had_is_refused_with_the_ways_to_get_it(refused, tmp_path, monkeypatch):
    from torchvision import datasets

    def unreachable(*arguments, **keywords):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    check(refused("dataset=mnist"), ["dataset=mnist", "run once with a network", "dataset.root=/path"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_real_command_says_the_same_with_the_same_code(run_python, tmp_path):
    done = run_python("-m", "pipeline.train", "batch=64,5000", "-m", fresh=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 2
    assert "batch=5000 is larger than the training split of 1077 examples" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
