"""The order of examples depends on (seed, epoch) alone."""

import torch

from pipeline.data.stream import ExampleStream, derive_seed, in_order


def indices_of(batch, steps, micro_batch=None, seed=3, examples=50):
    return torch.cat([s.indices for s in ExampleStream(examples, seed).slices(batch, steps, micro_batch)])


def test_runs_with_different_batch_sizes_see_the_same_stream():
    single = indices_of(1, 400)
    for batch, steps in ((7, 57), (32, 12), (50, 8)):
        assert torch.equal(indices_of(batch, steps), single[: batch * steps])


def test_micro_batches_hold_the_examples_of_the_whole_batch_in_order():
    assert torch.equal(indices_of(32, 10, micro_batch=5), indices_of(32, 10))
    pieces = [len(s.indices) for s in ExampleStream(50, 0).slices(7, 2, micro_batch=3)]
    assert pieces == [3, 3, 1, 3, 3, 1]


def test_an_epoch_holds_each_example_once_even_if_batches_cross_its_end():
    stream = indices_of(32, 25)  # 800 examples: 16 epochs of 50
    for epoch in stream.split(50):
        assert sorted(epoch.tolist()) == list(range(50))


def test_epochs_and_seeds_have_different_orders():
    first, second = indices_of(50, 2).split(50)
    assert not torch.equal(first, second)
    assert not torch.equal(indices_of(50, 1, seed=1), indices_of(50, 1, seed=2))


def test_a_slice_has_its_position_in_the_stream():
    assert [s.first for s in ExampleStream(50, 0).slices(20, 3, micro_batch=15)] == [0, 15, 20, 35, 40, 55]


def test_in_order_yields_every_example_unshuffled():
    assert torch.cat([s.indices for s in in_order(10, 4)]).tolist() == list(range(10))


def test_each_purpose_derives_a_seed_of_its_own():
    assert len({derive_seed("order", 1, 2), derive_seed("order", 2, 1), derive_seed("split", 1, 2)}) == 3


def test_indices_are_put_on_the_given_device():
    stream = ExampleStream(50, 3, torch.device("meta"))
    assert {piece.indices.device.type for piece in stream.slices(20, 5)} == {"meta"}
    assert {piece.indices.device.type for piece in in_order(50, 20, device=torch.device("meta"))} == {"meta"}
