"""Training on the real Fashion-MNIST, from Debian's package."""

import pytest

from pipeline.data.torchvision_images import DEBIAN_FASHION_MNIST
from pipeline.tracking.store import open_existing_store


@pytest.mark.long  # the short tests need no package of Debian's
def test_an_mlp_learns_fashion_mnist_in_one_epoch_without_any_download(run_python, tmp_path):
    assert DEBIAN_FASHION_MNIST.is_dir(), "apt-get install dataset-fashion-mnist: .ci/run does"
    done = run_python(
        *("-m", "pipeline.train", "dataset=fashion_mnist", "batch=256", "optimizer.lr=0.1"),
        *("budget.epochs=1", "tracking.checkpoints=none"),
    )
    assert done.returncode == 0, done.stderr
    store = open_existing_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "lr-batch")
    (run,) = store.client.search_runs([store.experiment_id])
    # Zalando's own table of baselines puts an MLP of this size at 0.13 after training to the end.
    assert run.data.metrics["test/error"] < 0.18
    assert run.data.metrics["optimizer_steps"] == round(50_000 / 256)
