"""Training steps in PyTorch: the peer that pruner-core's bench `train_step` is compared with.

Forward, cross-entropy, backward and momentum on one batch of synthetic images that stays in memory. Prints the images per
second of the fastest of several steps, and the most memory that the process had, in MB. Owns no part of the product.
"""

import argparse
import resource
import time

import torch
from synflow_torch import conv3x3, resnet, vgg16_bn
from torch import nn

# Expansion, output channels, blocks, step of the first one.
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def activated(convolution):
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6()]


def pointwise(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class Inverted(nn.Module):
    def __init__(self, inputs, hidden, outputs, stride):
        super().__init__()
        layers = activated(pointwise(inputs, hidden)) if hidden != inputs else []
        layers += activated(nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False))
        self.body = nn.Sequential(*layers, pointwise(hidden, outputs), nn.BatchNorm2d(outputs))
        self.adds = inputs == outputs and stride == 1

    def forward(self, x):
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2(classes):
    layers, width = activated(conv3x3(3, 32)), 32
    for expansion, outputs, blocks, first_stride in STAGES:
        for block in range(blocks):
            layers.append(Inverted(width, width * expansion, outputs, first_stride if block == 0 else 1))
            width = outputs
    layers += activated(pointwise(width, 1280))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))


NETWORKS = {
    "vgg16-bn": vgg16_bn,
    "resnet20": lambda classes: resnet(classes, [16, 32, 64], 3),
    "mobilenet-v2-cifar": mobilenet_v2,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("network", choices=NETWORKS)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=12)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    network = NETWORKS[arguments.network](10).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images, labels = torch.rand(arguments.batch, 3, 32, 32), torch.randint(0, 10, (arguments.batch,))
    fastest = float("inf")
    for _ in range(arguments.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        fastest = min(fastest, time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.batch / fastest:.1f} {memory:.0f}")


if __name__ == "__main__":
    main()
