"""The order of examples follows from (seed, epoch) alone."""

import torch

from pipeline.data.stream import ExampleStream, derive_seed, in_order


def whole(batch, steps, micro_batch=None, seed=3, examples=50):
    return torch.cat([s.indices for s in ExampleStream(examples, seed).slices(batch, steps, micro_batch)])


def test_runs_that_differ_in_batch_size_see_the_same_stream():
    longest = whole(1, 400)
    for batch, steps in ((7, 57), (32, 12), (50, 8)):
        assert torch.equal(whole(batch, steps), longest[: batch * steps])


def test_micro_batches_cut_a_batch_without_changing_it():
    assert torch.equal(whole(32, 10, micro_batch=5), whole(32, 10))
    pieces = [len(s.indices) for s in ExampleStream(50, 0).slices(7, 2, micro_batch=3)]
    assert pieces == [3, 3, 1, 3, 3, 1]


def test_every_epoch_holds_each_example_once_also_where_batches_cross_its_end():
    stream = whole(32, 25)  # 800 examples: 16 epochs of 50
    for epoch in stream.split(50):
        assert sorted(epoch.tolist()) == list(range(50))


def test_epochs_and_seeds_are_shuffled_differently():
    first, second = whole(50, 2).split(50)
    assert not torch.equal(first, second)
    assert not torch.equal(whole(50, 1, seed=1), whole(50, 1, seed=2))


def test_slices_know_their_position_in_the_stream():
    assert [s.first for s in ExampleStream(50, 0).slices(20, 3, micro_batch=15)] == [0, 15, 20, 35, 40, 55]


def test_evaluation_goes_through_all_examples_in_order():
    assert torch.cat([s.indices for s in in_order(10, 4)]).tolist() == list(range(10))


def test_two_uses_of_one_seed_are_different_seeds():
    assert len({derive_seed("order", 1, 2), derive_seed("order", 2, 1), derive_seed("split", 1, 2)}) == 3


def test_indices_lie_where_they_are_asked_to():
    stream = ExampleStream(50, 3, torch.device("meta"))
    assert {piece.indices.device.type for piece in stream.slices(20, 5)} == {"meta"}
    assert {piece.indices.device.type for piece in in_order(50, 20, device=torch.device("meta"))} == {"meta"}
