"""torchvision's sets: read where they are, fetched once, and a clear refusal where they can't be had."""

import pytest
import torch
from torchvision import datasets

from pipeline.data import torchvision_images
from pipeline.data.torchvision_images import DEBIAN_FASHION_MNIST, ensure_present
from pipeline.errors import RequestError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    assert DEBIAN_FASHION_MNIST.is_dir(), "apt-get install dataset-fashion-mnist: .ci/run does"
    root = tmp_path_factory.mktemp("data")
    return root, torchvision_images("fashion_mnist", "FashionMNIST", str(root), 10, [1, 28, 28], 0, 10_000, False, CPU)


def test_fashion_mnist_comes_whole_from_debians_package(fashion_mnist):
    root, splits = fashion_mnist
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50_000, 10_000, 10_000)
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    assert sorted(path.name for path in root.iterdir()) == [".fashion_mnist.lock", "FashionMNIST"]


def test_it_is_the_very_data_that_torchvision_knows(fashion_mnist):
    root, _ = fashion_mnist
    # torchvision's own check of what a download leaves behind
    assert datasets.FashionMNIST(str(root), train=True)._check_exists()


def test_data_that_cannot_be_had_names_the_ways_to_get_it_and_leaves_nothing(tmp_path, monkeypatch):
    def unreachable(*arguments, **keywords):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    with pytest.raises(
        RequestError, match=r"(?s)dataset=mnist is not in .*can't be downloaded.*\n.*dataset\.root=/path"
    ):
        ensure_present("mnist", datasets.MNIST, tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "..", ".", "", "a b", "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused_before_a_file_is_named_after_it(tmp_path, name):
    with pytest.raises(RequestError, match="it can't be a name"):
        torchvision_images(name, "MNIST", str(tmp_path / "a" / "b"), 10, [1, 28, 28], 0, 10, False, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(RequestError, match="PIPELINE_DATA"):
        ensure_present("mnist", datasets.MNIST, tmp_path / "data")
