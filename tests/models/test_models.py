"""Networks: output shapes, numbers of parameters, and the layers that their names promise."""

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models import MLP, SimpleCNN, resnet18


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize(
    "build", [lambda s: MLP(s, 7, (16,)), lambda s: SimpleCNN(s, 7, (4, 8), 16), lambda s: resnet18(s, 7)]
)
def test_each_network_maps_an_image_to_one_logit_for_each_class(build, shape):
    assert build(shape)(torch.randn(2, *shape)).shape == (2, 7)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_the_mlp_has_the_configured_layers():
    model = MLP((1, 8, 8), 10, (256, 128))
    assert parameters(model) == 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert parameters(MLP((1, 8, 8), 10, ())) == 650


def test_the_simple_cnn_has_two_5x5_convolutions_and_a_dense_layer():
    model = SimpleCNN((1, 28, 28), 10, (32, 64), 1024)
    expected = (25 * 32 + 32) + (25 * 32 * 64 + 64) + (7 * 7 * 64 * 1024 + 1024) + (1024 * 10 + 10)
    assert parameters(model) == expected


def test_resnet18_is_torchvisions_with_a_smaller_first_layer_for_small_images():
    small, large = resnet18((3, 32, 32), 10), resnet18((3, 224, 224), 1000)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert parameters(large) == parameters(torchvision.models.resnet18())
    assert resnet18((1, 128, 128), 10).conv1.in_channels == 1


def test_resnet18s_residual_blocks_start_as_identities():
    model = resnet18((3, 32, 32), 10)
    gammas = [m.bn2.weight for m in model.modules() if isinstance(m, torchvision.models.resnet.BasicBlock)]
    assert len(gammas) == 8
    assert all((gamma == 0).all() for gamma in gammas)


def test_pooling_before_the_relu_changes_no_number_of_the_simple_cnn():
    pooling_first = SimpleCNN((3, 28, 28), 10, (8, 16), 32)
    first, pool, relu, second, _, _, *dense = pooling_first.layers
    relu_first = nn.Sequential(first, relu, pool, second, relu, pool, *dense)
    images, labels = torch.randn(16, 3, 28, 28), torch.arange(16) % 10

    def passes(network):
        logits = network(images)
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), network.parameters())
        return logits, *gradients

    for ours, theirs in zip(passes(pooling_first.layers), passes(relu_first), strict=True):
        assert torch.equal(ours, theirs)
