"""A user's own images, decoded by DataLoader workers."""

import shutil

import pytest
import torch
from torchvision.utils import save_image

from pipeline.data import ExampleStream, image_folder
from pipeline.errors import RequestError


@pytest.fixture
def images(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for number in range(12):
            folder = tmp_path / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            save_image(torch.full((3, 10, 14), (label * 12 + number) / 24), folder / f"{number:02d}.png")
    return tmp_path


def load(root, classes=2, augment=False, shape=(3, 8, 8)):
    return image_folder("image_folder", str(root), classes, list(shape), 0, 0.25, 0.25, augment, 2, torch.device("cpu"))


def test_parts_without_a_folder_are_drawn_from_train(images):
    splits = load(images)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 6, 6)
    members = torch.cat([splits.train.members, splits.val.members, splits.test.members])
    assert sorted(members.tolist()) == list(range(24))


def test_workers_yield_the_streams_batches_in_order(images):
    train = load(images).train
    slices = list(ExampleStream(len(train), 0).slices(5, 4, micro_batch=3))
    expected = [torch.stack([train.dataset[i][0] for i in train.members[s.indices].tolist()]) for s in slices]
    got = [images for images, _ in train.batches(iter(slices))]
    assert [len(batch) for batch in got] == [3, 2] * 4
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for batch, raw in zip(got, expected, strict=True):
        assert torch.allclose(batch, (raw / 255 - mean) / std, atol=1e-6)


def test_augmentation_does_not_depend_on_the_batch_size(images):
    train = load(images, augment=True).train

    def stream(batch, steps):
        slices = ExampleStream(len(train), 0).slices(batch, steps)
        return torch.cat([images for images, _ in train.batches(slices, augment_seed=3)])

    assert torch.equal(stream(4, 6), stream(12, 2))


def test_the_digest_depends_on_every_byte_and_name_but_not_on_where_the_folder_lies(images, tmp_path_factory):
    digest = load(images).digest
    assert len(digest) == 32
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(images, elsewhere)
    assert load(elsewhere).digest == digest
    file = elsewhere / "train" / "cat" / "03.png"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the size stays the same
    file.write_bytes(content)
    assert load(elsewhere).digest != digest
    content[-1] ^= 1
    file.write_bytes(content)
    assert load(elsewhere).digest == digest
    file.rename(file.with_name("3.png"))
    assert load(elsewhere).digest != digest


def test_a_process_reads_each_file_once_for_the_digest(images, monkeypatch):
    digest = load(images).digest
    monkeypatch.setattr("hashlib.file_digest", lambda *arguments: pytest.fail("read again"))
    assert load(images).digest == digest


def test_a_missing_folder_and_a_wrong_number_of_classes_are_refused(images, tmp_path):
    with pytest.raises(RequestError, match=r"(?s)train.*dataset\.root=/path/to/images"):
        load(tmp_path / "nothing")
    with pytest.raises(RequestError, match=r"Set dataset\.classes=2"):
        load(images, classes=3)
