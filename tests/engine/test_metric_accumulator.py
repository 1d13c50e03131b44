"""Sums of losses and wrong answers, in buffers that are allocated once."""

import weakref

import pytest
import torch

from pipeline.engine.metric_accumulator import BUFFERED_EXAMPLES, MetricAccumulator


@pytest.mark.parametrize(
    "sizes", [[1] * 70, [300] * 20, [BUFFERED_EXAMPLES, 5, BUFFERED_EXAMPLES - 5, 1, 3 * BUFFERED_EXAMPLES], [7]]
)
def test_the_sums_are_those_of_the_passes_since_the_last_call(sizes):
    accumulator = MetricAccumulator()
    for _ in range(2):
        losses, wrong = [], 0
        for size in sizes:
            logits, labels, loss = torch.randn(size, 10), torch.randint(0, 10, (size,)), torch.rand(())
            accumulator.add(loss, logits, labels)
            losses.append(loss)
            wrong += int((logits.argmax(dim=1) != labels).sum())
        total, found = accumulator.pop_sums()
        assert total == torch.stack(losses).sum()
        assert found == wrong


@pytest.mark.parametrize("size", [3, BUFFERED_EXAMPLES])
def test_nothing_of_a_pass_is_held(size):
    accumulator = MetricAccumulator()
    passed = [torch.rand(()), torch.randn(size, 10), torch.zeros(size, dtype=torch.int64)]
    left = [weakref.ref(tensor) for tensor in passed]
    accumulator.add(*passed)
    del passed
    assert [tensor() for tensor in left] == [None] * 3
