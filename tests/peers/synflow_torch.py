"""Synaptic flow in PyTorch, as its authors' code does it: the peer that pruner-core's bench `synflow` is compared with.

Absolute weights in f64, eval mode, an image of ones, 100 rounds of exponential pruning to 1/16.21 of the weights by
one global threshold. Prints the seconds of all rounds and nothing else. Owns no part of the product.
"""

import argparse
import time

import torch
from torch import nn


def conv3x3(inputs, outputs, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def vgg16_bn(classes):
    layers, width = [], 3
    for stage, widths in enumerate([[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]):
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        for outputs in widths:
            layers += [conv3x3(width, outputs, bias=True), nn.BatchNorm2d(outputs), nn.ReLU()]
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(),
            conv3x3(outputs, outputs), nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(classes, widths, blocks):
    layers, width = [conv3x3(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()], widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(width, outputs, 2 if stage > 0 and block == 0 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


NETWORKS = {
    "vgg16-bn": (lambda: vgg16_bn(10), 32),
    "resnet20": (lambda: resnet(10, [16, 32, 64], 3), 32),
    "resnet18": (lambda: resnet(200, [64, 128, 256, 512], 2), 64),
}


def prune(network, side, density, rounds, done):
    """Scores and masks for `done` of `rounds` rounds."""
    network = network.double().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.abs_()
    kinds = (nn.Conv2d, nn.Linear)
    weights = [module.weight for module in network.modules() if isinstance(module, kinds)]
    total = sum(weight.numel() for weight in weights)
    ones = torch.ones(1, 3, side, side, dtype=torch.float64)
    for index in range(done):
        network.zero_grad()
        network(ones).sum().backward()
        with torch.no_grad():
            scores = [(weight * weight.grad).abs() for weight in weights]
            dropped = int((1 - density ** ((index + 1) / rounds)) * total)
            if dropped > 0:
                every = torch.cat([score.flatten() for score in scores])
                threshold, _ = torch.kthvalue(every, dropped)
                for weight, score in zip(weights, scores):
                    weight.mul_(score > threshold)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("network", choices=NETWORKS)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=100, help="of the schedule")
    arguments.add_argument("--done", type=int, help="rounds to run, the rest in proportion; all unless said")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    build, side = NETWORKS[arguments.network]
    done = arguments.done or arguments.rounds
    network = build()
    start = time.perf_counter()
    prune(network, side, 1 / 16.21, arguments.rounds, done)
    print(f"{(time.perf_counter() - start) * arguments.rounds / done:.3f}")


if __name__ == "__main__":
    main()
