"""Guards against slowness that count work, not seconds, and so give the same result on every machine.

If a change crosses a bound on purpose, change the bound here, and give the reason in the commit.
"""

import json
import subprocess
import sys
from collections import Counter

import pytest
import sqlalchemy
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data import ExampleStream, InMemorySplit, Splits
from pipeline.engine import fit
from pipeline.engine.optimizer_step import Stepper
from pipeline.models import MLP
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import Schedule, make_schedule
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.target import TrackingTarget

STEPS, BATCH = 200, 64


@pytest.fixture(scope="module")
def splits():
    images, labels = torch.randn(12_800, 1, 8, 8), torch.arange(12_800) % 10
    few = InMemorySplit(images[:360], labels[:360])
    return Splits("random", InMemorySplit(images, labels), few, few, 10, "", 2.3, "")


class Operations(TorchDispatchMode):
    """Counts what torch computes, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def trained(splits, micro_batch=None):
    """Return a short run's forward passes in training, those in evaluation, optimizer steps and evaluations."""
    torch.manual_seed(0)
    model = MLP((1, 8, 8), 10, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    passes, steps = Counter(), Counter()
    model.register_forward_pre_hook(lambda module, images: passes.update([module.training]))
    optimizer.register_step_post_hook(lambda *_: steps.update(["step"]))
    plan = plan_training(Budget(kind="steps", steps=STEPS), BATCH, len(splits.train))
    schedule = make_schedule(Schedule(name="cosine", final_factor=0.0), plan.total_steps, plan.steps_per_epoch)
    fit(model, optimizer, splits, plan, schedule, batch=BATCH, seed=0, micro_batch=micro_batch)
    return passes[True], passes[False], steps["step"], len(plan.evaluation_steps)


@pytest.mark.parametrize(("micro_batch", "passes"), [(None, 1), (20, 4)])
def test_a_run_makes_no_more_passes_than_its_plan_says(splits, micro_batch, passes):
    training, evaluating, steps, evaluations = trained(splits, micro_batch)
    assert (training, steps) == (STEPS * passes, STEPS)
    assert evaluating == evaluations  # 360 validation images are one pass


def test_a_step_computes_what_the_bare_loop_does(splits, monkeypatch):
    waits, to_host = [], Stepper.to_host
    monkeypatch.setattr(Stepper, "to_host", lambda self, sums: waits.append(sums) or to_host(self, sums))
    with Operations() as ours:
        *_, evaluations = trained(splits)
    model = MLP((1, 8, 8), 10, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = ExampleStream(len(splits.train), 0).take(0, STEPS * BATCH)
    with Operations() as bare:
        for where in order.split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(splits.train.images[where]), splits.train.labels[where])
            loss.backward()
            optimizer.step()
    # Beyond the steps: initial weights, shuffles, the sums of each window and the evaluations.
    extra = ours.counts.total() - bare.counts.total()
    assert extra / STEPS < 8, (ours.counts - bare.counts).most_common(12)
    # Twenty windows an epoch, which these steps are, and one more for the first step and each evaluation.
    assert len(waits) <= 20 + 1 + evaluations, "waits for the device"
    # Beside these: two sums and the gradient's norm at each evaluation.
    assert ours.counts["_local_scalar_dense"] <= 3 * evaluations, "waits for the device"


def test_a_run_of_twenty_epochs_asks_little_of_mlflow(tmp_path, monkeypatch):
    from pipeline.tracking.store import open_store

    target = TrackingTarget(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "work")
    store = open_store(target.uri, target.experiment)
    calls, statements = Counter(), Counter()
    names = ("create_run", "log_batch", "log_text", "set_terminated", "search_runs", "log_inputs", "get_run")
    for name in names:
        original = getattr(type(store.client), name)

        def counted(*arguments, _name=name, _original=original, **more):
            calls[_name] += 1
            return _original(*arguments, **more)

        monkeypatch.setattr(type(store.client), name, counted)

    def executed(connection, cursor, statement, parameters, context, many):
        statements[statement.split(None, 1)[0]] += 1

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", executed)
    try:
        with TrackedRun(target, "work", {"pipeline": "run"}) as run:
            run.log_params({f"p{i}": i for i in range(60)})
            run.log_text("key: value\n", "config/config.yaml")
            run.log_dataset("digits", "0" * 32, "somewhere", 1077)
            assert run.id
            for epoch in range(1, 21):
                run.log_metrics({f"m{i}": i * epoch for i in range(9)}, epoch)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", executed)
    assert run.is_sent
    assert (calls["create_run"], calls["search_runs"], calls["get_run"]) == (1, 0, 0), calls
    assert calls["log_batch"] <= 4, calls
    assert statements.total() <= 130, statements


def test_the_command_line_imports_hardly_more_than_an_empty_app():
    counts = []
    for imported in ("pipeline.train", "hydra, pipeline.config, hydra._internal.hydra"):
        program = f"import sys, json, {imported}; print(json.dumps([m for m in sys.modules]))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        counts.append(set(json.loads(done.stdout)))
    more = counts[0] - counts[1]
    assert len(more) <= 60, sorted(more)
