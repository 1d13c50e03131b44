"""Show with torch's profiler where a step of the simple_cnn spends its time.

    python benchmarks/operations.py [fp32|bf16]

A step has 1024 examples, with the settings of `runtime=auto`. The script prints each operation's share of the time, and
the arithmetic rate of convolutions and matrix products: multiplications and additions of the layers, forward and
backward, without the gradient of the images. The profiler's own allocations lie between the activations, so memory is
returned to the system and faulted in again. Without it this doesn't happen: the shares of operations that write memory
(fill_) are too large.
"""

import sys
from math import prod

import loop
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

EXAMPLES, STEPS = 1024, 4
PRODUCTS = {"aten::convolution_backward", "aten::mkldnn_convolution", "aten::mm", "aten::addmm"}


def operations_of(model, images) -> int:
    """Count a step's multiplications and additions: each layer's forward pass, weight gradient and input gradient."""
    counts = []

    def count(module, given, result):
        weights = prod(module.weight.shape)
        counts.append(2 * weights * (result.numel() // module.weight.shape[0]))

    handles = [m.register_forward_hook(count) for m in model.modules() if hasattr(m, "weight")]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return 3 * sum(counts) - counts[0]


def main(precision: str) -> None:
    """Profile some steps and print the shares."""
    model, used = loop.prepared(loop.build("simple_cnn"), precision)
    optimizer = loop.optimizer_of(model, "engine")
    images, labels = loop.data()
    images = images[:EXAMPLES].float().sub_(127.5).div_(73.9)
    labels = labels[:EXAMPLES]

    def step():
        with used.context():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            step()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:10]:
        print(f"{event.key:45} {event.self_cpu_time_total / total:6.1%}")
    spent = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
    operations = operations_of(model, images)
    print(f"{operations / EXAMPLES / 1e6:.0f} million multiplications and additions per example")
    print(f"convolutions and matrix products: {STEPS * operations / spent / 1e3:.0f} GFLOP/s, {precision}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "fp32")
