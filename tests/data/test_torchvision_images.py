"""torchvision's data sets: from Debian's package, by a download, and a clear error where neither works."""

from pathlib import Path

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


@pytest.mark.long  # the short tests need no package of Debian's
def test_fashion_mnist_comes_complete_from_debians_package(fashion_mnist):
    root, splits = fashion_mnist
    assert (len(splits.train), len(splits.val), len(splits.test)) == (50_000, 10_000, 10_000)
    assert torch.bincount(splits.test.labels[splits.test.rows]).tolist() == [1000] * 10
    assert sorted(path.name for path in root.iterdir()) == [".fashion_mnist.lock", "FashionMNIST"]


@pytest.mark.long
def test_torchvision_accepts_the_files_from_debians_package(fashion_mnist):
    root, _ = fashion_mnist
    # torchvision's own check of a download
    assert datasets.FashionMNIST(str(root), train=True)._check_exists()


def test_a_failed_download_names_other_ways_to_get_the_data_and_leaves_no_file(tmp_path, monkeypatch):
    def unreachable(*arguments, **keywords):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    with pytest.raises(
        RequestError, match=r"(?s)dataset=mnist is not in .*can't be downloaded.*\n.*dataset\.root=/path"
    ):
        ensure_present("mnist", datasets.MNIST, tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_downloaded_archive_beside_the_data_is_not_kept(tmp_path):
    def archived(root, train, download=False):
        if not download and not (Path(root) / "archived").is_dir():
            raise RuntimeError
        if download:
            (Path(root) / "archived").mkdir()
            (Path(root) / "archived.tar.gz").write_text("packed")

    ensure_present("archived", archived, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".archived.lock", "archived"]


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "..", ".", "", "a b", "a\n"])
def test_a_name_that_could_lead_to_another_folder_is_refused_before_a_file_is_named_after_it(tmp_path, name):
    with pytest.raises(RequestError, match="it can't be a name"):
        torchvision_images(name, "MNIST", str(tmp_path / "a" / "b"), 10, [1, 28, 28], 0, 10, False, CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(RequestError, match="PIPELINE_DATA"):
        ensure_present("mnist", datasets.MNIST, tmp_path / "data")
