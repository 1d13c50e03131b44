"""Losses and answers, added up in memory that is taken once."""

import weakref

import pytest
import torch

from pipeline.engine.metric_accumulator import AT_ONCE, MetricAccumulator


@pytest.mark.parametrize("sizes", [[1] * 70, [300] * 20, [AT_ONCE, 5, AT_ONCE - 5, 1, 3 * AT_ONCE], [7]])
def test_it_drains_what_the_passes_add_up_to(sizes):
    tally = MetricAccumulator()
    for _ in range(2):  # what was drained is gone
        losses, wrong = [], 0
        for size in sizes:
            logits, labels, loss = torch.randn(size, 10), torch.randint(0, 10, (size,)), torch.rand(())
            tally.add(loss, logits, labels)
            losses.append(loss)
            wrong += int((logits.argmax(dim=1) != labels).sum())
        total, found = tally.drain()
        assert total == torch.stack(losses).sum()
        assert found == wrong


@pytest.mark.parametrize("size", [3, AT_ONCE])
def test_nothing_of_a_pass_is_held(size):
    tally = MetricAccumulator()
    passed = [torch.rand(()), torch.randn(size, 10), torch.zeros(size, dtype=torch.int64)]
    left = [weakref.ref(tensor) for tensor in passed]
    tally.add(*passed)
    del passed
    assert [tensor() for tensor in left] == [None] * 3
