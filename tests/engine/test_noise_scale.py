"""The noise scale: against closed forms and obvious implementations, and without effect on training."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.data import InMemorySplit, digits
from pipeline.engine import NoiseSample, NoiseScale, fit, noise_scale
from pipeline.engine.noise_scale import MicroBatchNoise, noise_scale_of_examples, per_example_gradients
from pipeline.models import MLP, SimpleCNN, resnet18
from pipeline.recipe.budget import Budget, plan_training
from pipeline.recipe.schedule import Schedule, make_schedule

# Mean estimation, the loss ½|θ − x|²: gradients are θ − x, so Σ is the covariance of x and G is θ − mean(x).
SD = torch.linspace(0.5, 1.5, 20, dtype=torch.float64)
TRACE, SQUARED_NORM = SD.square().sum().item(), 4.0


class Mean(nn.Module):
    """θ − x, with θ at distance 2 from the mean of `draw_examples`."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.full((20,), math.sqrt(SQUARED_NORM / 20), dtype=torch.float64))

    def forward(self, x):
        return self.theta - x


def draw_examples(count, generator):
    return torch.randn(count, 20, generator=generator, dtype=torch.float64) * SD


def half_square(outputs, _):
    return 0.5 * outputs.square().sum(dim=1).mean()


def mean_of(estimates):
    """Average numerators and denominators, and divide last."""
    count = len(estimates)
    return NoiseScale(sum(e.trace for e in estimates) / count, sum(e.squared_norm for e in estimates) / count)


def assert_means(estimates, trace, squared_norm):
    """Numerator, denominator and the ratio of their means agree with the truth within three standard errors."""
    pairs = torch.tensor([(e.trace, e.squared_norm) for e in estimates], dtype=torch.float64)
    errors = pairs.std(dim=0) / math.sqrt(len(pairs))
    truth = torch.tensor([trace, squared_norm], dtype=torch.float64)
    assert ((pairs.mean(dim=0) - truth).abs() < 3 * errors).all()
    whole = mean_of(estimates)
    assert (whole.trace, whole.squared_norm) == pytest.approx(pairs.mean(dim=0).tolist())
    # The ratio's standard error by the delta method.
    spread = (pairs[:, 0] - trace / squared_norm * pairs[:, 1]).std().item() / squared_norm / math.sqrt(len(pairs))
    assert abs(whole.value - trace / squared_norm) < 3 * spread


def test_a_mean_estimation_has_the_noise_scale_of_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    model, labels = Mean(), torch.zeros(16)
    estimates = [
        noise_scale_of_examples([per_example_gradients(model, draw_examples(16, generator), labels, half_square)])
        for _ in range(1000)
    ]
    assert_means(estimates, TRACE, SQUARED_NORM)
    # Numerator and denominator are averaged apart for this reason: the mean of the ratios is another number.
    ratios = torch.tensor([e.value for e in estimates if e.value is not None])
    assert ratios.mean() - TRACE / SQUARED_NORM > 5 * ratios.std() / math.sqrt(len(ratios))


def test_a_linear_regression_has_the_noise_scale_of_the_closed_form():
    # y = w·x + ε with x ~ N(0, I): with δ = θ − w, gradients (δ·x − ε)x have mean δ and
    # second moment |δ|²I + 2δδᵀ + sd²I.
    inputs, sd = 6, 0.7
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(inputs, 1, bias=False)
    w = model.weight.detach()[0] - 0.5
    estimates = []
    for _ in range(1000):
        x = torch.randn(24, inputs, generator=generator)
        y = x @ w + sd * torch.randn(24, generator=generator)
        gradients = per_example_gradients(model, x, y[:, None], lambda out, y: 0.5 * F.mse_loss(out, y))
        estimates.append(noise_scale_of_examples([gradients]))
    squared_norm = inputs * 0.25
    assert_means(estimates, (inputs + 1) * squared_norm + inputs * sd**2, squared_norm)


@pytest.mark.parametrize(("batch", "micro_batch"), [(32, 8), (50, 16), (17, 16)])
def test_accumulation_has_the_noise_scale_of_the_closed_form_also_with_a_smaller_last_micro_batch(batch, micro_batch):
    generator = torch.Generator().manual_seed(2)
    model = Mean()
    estimates = []
    with MicroBatchNoise(model, batch, micro_batch) as noise:
        for _ in range(1000):
            model.zero_grad()
            for part in draw_examples(batch, generator).split(micro_batch):
                (half_square(model(part), None) * (len(part) / batch)).backward()
                noise.after_backward(len(part))
            estimates.append(noise.pop_estimate())
    assert_means(estimates, TRACE, SQUARED_NORM)


class Tied(nn.Module):
    """One weight in two layers: its gradient arrives in two parts."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, images):
        return self.layer(self.layer(images.flatten(1)).relu())[:, :10]


def gradient(model, images, labels):
    """All of the mean loss's gradient as one vector, the obvious way."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(model(images), labels), trainable)])


@pytest.mark.parametrize("model", [MLP((1, 8, 8), 10, (32,)), Tied()], ids=["mlp", "tied"])
def test_accumulation_equals_the_two_batch_sizes_formula_of_the_paper(model):
    torch.manual_seed(0)
    steps, passes, small, large = 5, 4, 8, 32
    images, labels = torch.randn(steps, large, 1, 8, 8), torch.randint(10, (steps, large))
    traces, squared_norms = [], []
    with MicroBatchNoise(model, large, small) as noise:
        for x, y in zip(images, labels, strict=True):
            parts = [gradient(model, a, b) for a, b in zip(x.split(small), y.split(small), strict=True)]
            g_small = sum(part.square().sum() for part in parts) / passes
            g_large = (sum(parts) / passes).square().sum()
            squared_norms.append((large * g_large - small * g_small) / (large - small))
            traces.append((g_small - g_large) / (1 / small - 1 / large))
            noise._norms.clear()  # autograd.grad above passes the hooks too
            model.zero_grad()
            for a, b in zip(x.split(small), y.split(small), strict=True):
                (F.cross_entropy(model(a), b) / passes).backward()
                noise.after_backward(small)
        estimate = noise.pop_estimate()
        assert noise.pop_estimate() is None
    assert estimate.trace == pytest.approx(sum(traces).item() / steps, rel=1e-4)
    assert estimate.squared_norm == pytest.approx(sum(squared_norms).item() / steps, rel=1e-4)
    assert not any(p._backward_hooks for p in model.parameters())


def test_a_single_micro_batch_gives_no_estimate():
    model = Mean()
    with MicroBatchNoise(model, 32, 256) as noise:
        half_square(model(torch.zeros(32, 20)), None).backward()
        noise.after_backward(32)
        assert noise.pop_estimate() is None


MODELS = {
    "mlp": lambda: MLP((1, 8, 8), 10, (32, 16)),
    "simple_cnn": lambda: SimpleCNN((1, 8, 8), 10, (4, 8), 16),
    "resnet18": lambda: resnet18((1, 8, 8), 10),  # with batch norm
}


def frozen_first_layer():
    model = MODELS["mlp"]()
    model.layers[1].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "build",
    [
        *(pytest.param(build, marks=pytest.mark.long if name == "resnet18" else ()) for name, build in MODELS.items()),
        frozen_first_layer,
    ],
    ids=[*MODELS, "frozen"],
)
def test_the_sample_equals_one_backward_pass_an_example_for_any_chunks(build, monkeypatch):
    torch.manual_seed(0)
    model = build().eval()
    split = InMemorySplit(torch.randn(7, 1, 8, 8), torch.randint(10, (7,)))
    obvious = torch.stack([gradient(model, split.images[[i]], split.labels[[i]]) for i in range(7)])
    fast = per_example_gradients(model, split.images, split.labels)
    fast = torch.cat([g.flatten(1) for g in fast], dim=1)
    torch.testing.assert_close(fast, obvious, rtol=1e-3, atol=1e-5)

    mean = obvious.double().mean(dim=0)
    trace = (obvious - mean).square().sum().item() / 6
    whole = NoiseSample(examples=7).measure(model, split, seed=0)
    assert whole.trace == pytest.approx(trace, rel=1e-3)
    assert whole.squared_norm == pytest.approx(mean.square().sum().item() - trace / 7, rel=1e-2, abs=1e-3 * trace)
    bytes_each = 4 * obvious.shape[1]
    for at_once, limit in ((1, 1), (5, 5 * bytes_each)):
        monkeypatch.setattr(noise_scale, "GRADIENT_BYTES", limit)
        assert noise_scale.examples_at_once(model) == at_once
        chunked = NoiseSample(examples=7).measure(model, split, seed=0)
        assert chunked.trace == pytest.approx(whole.trace, rel=1e-4)
        assert chunked.squared_norm == pytest.approx(whole.squared_norm, rel=1e-3, abs=1e-4 * trace)


def test_a_negative_squared_norm_gives_no_value():
    assert NoiseScale(2.0, -0.1).value is None
    assert NoiseScale(2.0, 0.0).value is None
    assert NoiseScale(math.nan, 1.0).value is None
    assert NoiseScale(2.0, 0.5).value == 4.0
    assert NoiseScale(2.0, -0.1).metrics("noise_scale") == {
        "noise_scale/trace": 2.0,
        "noise_scale/squared_norm": -0.1,
    }
    assert mean_of([NoiseScale(2.0, -0.1), NoiseScale(4.0, 0.7)]).value == pytest.approx(10)
    opposite = noise_scale_of_examples([[torch.tensor([1.0, -1.0])]])
    assert (opposite.trace, opposite.squared_norm, opposite.value) == (2.0, -1.0, None)


@pytest.fixture(scope="module")
def splits():
    return digits("digits", 10, [1, 8, 8], 0, 360, 360, torch.device("cpu"))


def train(splits, sample=None, epochs=3, lr=0.1, batch=64, micro_batch=None, **budget):
    """Train a network with dropout and batch norm, which have random numbers and buffers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    budget = budget or {"kind": "epochs", "epochs": epochs}
    plan = plan_training(Budget(**budget), batch, len(splits.train))
    schedule = make_schedule(Schedule(name="constant"), plan.total_steps, plan.steps_per_epoch)
    more = {} if sample is None else {"noise_sample": sample}
    result = fit(model, optimizer, splits, plan, schedule, batch=batch, seed=0, micro_batch=micro_batch, **more)
    return result, model


def training_metrics(result):
    """Return the metrics that depend neither on the clock nor on the noise scale."""
    return [
        {k: v for k, v in e.metrics.items() if k != "examples_per_second" and not k.startswith("noise_scale")}
        for e in result.evaluations
    ]


@pytest.mark.parametrize("micro_batch", [None, 24])
def test_training_is_the_same_bit_for_bit_with_and_without_measuring(splits, micro_batch, monkeypatch):
    measured, measured_model = train(splits, NoiseSample((1, 2, 3), 100), micro_batch=micro_batch)
    monkeypatch.setattr(MicroBatchNoise, "__enter__", lambda self: setattr(self, "_hooks", []) or self)
    monkeypatch.setattr(MicroBatchNoise, "after_backward", lambda self, examples: None)
    plain, plain_model = train(splits, micro_batch=micro_batch)
    assert training_metrics(measured) == training_metrics(plain)
    for name, value in plain_model.state_dict().items():
        assert torch.equal(value, measured_model.state_dict()[name]), name


def test_measuring_changes_no_gradient_buffer_mode_or_random_generator(splits):
    class Draws(InMemorySplit):
        """Draws a random number, as a torch DataLoader does when it starts."""

        def batches(self, *arguments, **keywords):
            torch.rand(1)
            yield from super().batches(*arguments, **keywords)

    _, model = train(splits, epochs=1)
    model.train()
    gradients = [p.grad.clone() for p in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    split = Draws(splits.train.images, splits.train.labels)
    first = NoiseSample(examples=50).measure(model, split, seed=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.rand(1)
    assert NoiseSample(examples=50).measure(model, split, seed=0) == first
    assert NoiseSample(examples=50).measure(model, split, seed=1) != first


def measured_at(result, name):
    return [e.epoch for e in result.evaluations if f"{name}/trace" in e.metrics]


@pytest.mark.parametrize(
    ("epochs", "expected"), [((), []), ((1,), [1]), ((-1,), [3]), ((2, -1), [2, 3]), ((-3, 1), [1])]
)
def test_the_sample_is_measured_at_the_chosen_evaluations(splits, epochs, expected):
    result, _ = train(splits, NoiseSample(epochs, 64))
    assert measured_at(result, "noise_scale") == expected
    assert measured_at(result, "noise_scale_accumulated") == []


def test_accumulation_is_measured_at_every_evaluation_if_batches_are_cut(splits):
    result, _ = train(splits, micro_batch=24)
    assert measured_at(result, "noise_scale_accumulated") == [1, 2, 3]
    assert measured_at(result, "noise_scale") == []


def test_an_evaluation_that_reaches_the_target_is_the_last_one(splits):
    target = {"kind": "target", "metric": "val/error", "threshold": 0.2, "max_epochs": 50}
    result, _ = train(splits, NoiseSample((-1,), 64), **target)
    assert result.status == "complete"
    assert len(result.evaluations) < 50
    assert measured_at(result, "noise_scale") == [len(result.evaluations)]


def test_a_run_that_diverged_does_not_measure(splits):
    result, _ = train(splits, NoiseSample((1, 2, 3), 64), lr=1e6)
    assert result.status == "diverged"
    assert measured_at(result, "noise_scale") == []


def test_both_estimators_measure_the_same_noise(splits):
    # With constant weights, on the whole training split, without batch norm and dropout.
    torch.manual_seed(0)
    model = MLP((1, 8, 8), 10, (32,))
    whole = NoiseSample(examples=1077).measure(model, splits.train, seed=0)
    estimates = []
    with MicroBatchNoise(model, 1077, 40) as noise:
        for seed in range(30):
            order = torch.randperm(1077, generator=torch.Generator().manual_seed(seed))
            model.zero_grad()
            for where in order.split(40):
                loss = F.cross_entropy(model(splits.train.images[where]), splits.train.labels[where])
                (loss * (len(where) / 1077)).backward()
                noise.after_backward(len(where))
            estimates.append(noise.pop_estimate())
    together = mean_of(estimates)
    assert together.trace == pytest.approx(whole.trace, rel=0.05)
    assert together.squared_norm == pytest.approx(whole.squared_norm, rel=0.01)


def test_if_evaluations_are_far_apart_every_nth_step_is_measured_from_the_first_on():
    torch.manual_seed(0)
    model, kept = nn.Linear(3, 2), []
    with MicroBatchNoise(model, 4, 2, steps=64 * 5) as noise, MicroBatchNoise(model, 4, 2) as each:
        for step in range(12):
            model.zero_grad()
            for _ in range(2):
                (F.cross_entropy(model(torch.randn(2, 3)), torch.tensor([0, 1])) / 2).backward()
                noise.after_backward(2)
                each.after_backward(2)
            (kept if step % 5 == 0 else []).append(each.pop_estimate())
        measured = noise.pop_estimate()
    assert len(kept) == 3
    expected = mean_of(kept)
    assert (measured.trace, measured.squared_norm) == pytest.approx((expected.trace, expected.squared_norm), rel=1e-5)
    assert noise.pop_estimate() is None
