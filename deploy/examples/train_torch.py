#!/usr/bin/env python3
"""Trains a pruned network with PyTorch: a trainer for `trainer: command`, and for use by hand.

The coordinator starts it with the path of a task (docs/training-elsewhere.md); by hand it takes
the same things as options. It builds the network from its ONNX file, trains it by the recipe, on
a GPU where there is one, and writes the trained weights as safetensors. It needs PyTorch 1.13 or
later, onnx and numpy.
"""

import argparse
import dataclasses
import errno
import functools
import gzip
import hashlib
import io
import json
import math
import os
import random
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

VERSION = 1
NOT_NOW = 75  # exit code: try again later
REPORT_EVERY = 0.5  # seconds
EXAMPLES = """examples:
  train_torch.py task.json
      as the coordinator starts it; ends when standard input does
  train_torch.py --model pruned.onnx --weights pruned.safetensors \\
      --images /usr/share/datasets/fashion-mnist --out trained.safetensors --epochs 30
      by hand, on a folder of IDX files
  train_torch.py --model pruned.onnx --images images.safetensors --out trained.safetensors \\
      --schedule one-cycle --learning-rate 0.2 --shift 2 --checkpoints state
      from the weights in the ONNX file; started again, it goes on from the folder `state`
"""


class Fault(Exception):
    """What the operator can put right; the text becomes the last line on standard error."""


# Files: safetensors and IDX.

DTYPES = {"F32": np.dtype("<f4"), "U8": np.dtype("u1"), "I64": np.dtype("<i8")}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file."""
    data, tensors = np.fromfile(path, np.uint8), {}
    try:
        base = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:base].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if entry["dtype"] not in DTYPES:
                raise Fault(f"{path}: {name} is {entry['dtype']}, which is not known here")
            dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
            if not 0 <= start <= end <= len(data) - base:
                raise Fault(f"{path}: cut short: {name} ends at {base + end} of {len(data)} bytes")
            values = data[base + start:base + end].view(dtype)
            # Only bytes may be used where they are: wider numbers need not be aligned.
            values = values if dtype.itemsize == 1 else values.copy()
            tensors[name] = torch.from_numpy(values.reshape([int(dim) for dim in shape]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fault(f"{path}: no safetensors file, or cut short: {error}") from error
    return tensors


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes f32 tensors."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = (tensor.numpy().astype("<f4").tobytes() for tensor in tensors.values())
    replace(path, [len(text).to_bytes(8, "little"), text, *data])


def replace(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file beside and renames it: there is the old one or the new one, whole."""
    beside = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(beside, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_idx(folder: Path, name: str, rank: int) -> Tensor:
    """An IDX file of bytes, gzipped or not."""
    path = folder / name if (folder / name).exists() else folder / f"{name}.gz"
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = np.frombuffer(bytearray(file.read()), np.uint8)
        if data[:4].tolist() != [0, 0, 8, rank]:
            raise ValueError(f"it does not begin as one of bytes in {rank} dimensions does")
        dims = data[4:4 + 4 * rank].view(">u4").tolist()
        return torch.from_numpy(data[4 + 4 * rank:].reshape(dims))
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise Fault(f"{path}: no IDX file, or cut short: {error}") from error


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images, u8, count x channels x height x width, and labels, i64: safetensors or IDX files."""
    if path.is_dir():
        images = read_idx(path, "train-images-idx3-ubyte", 3).unsqueeze(1)
        labels = read_idx(path, "train-labels-idx1-ubyte", 1).long()
    else:
        tensors = read_safetensors(path)
        if not {"images", "labels"} <= tensors.keys():
            raise Fault(f"{path}: it needs the tensors images and labels")
        images, labels = tensors["images"], tensors["labels"]
    if (images.dtype, images.dim(), labels.dtype) != (torch.uint8, 4, torch.int64):
        raise Fault(f"{path}: images must be u8 in four dimensions, labels i64")
    if labels.shape != images.shape[:1] or not len(labels):
        raise Fault(f"{path}: {len(images)} images, but {labels.numel()} labels")
    return images, labels


def moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, pixels from 0 to 1; deviation 1 where it is constant."""
    channels = images.numpy().swapaxes(0, 1)
    mean, std = ([float(of(channel)) / 255 for channel in channels] for of in (np.mean, np.std))
    return mean, [value or 1.0 for value in std]


# The network: an interpreter of the ONNX graph.

# Which inputs of an operator are learnt, have weight decay, and are running statistics.
LEARNT = {"Conv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
          "PRelu": (1,)}
DECAYED = {"Conv": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
STATISTICS = {"BatchNormalization": (3, 4)}


class Node:
    """A node of the graph."""

    def __init__(self, proto: onnx.NodeProto, constants: dict[str, np.ndarray]):
        self.operator = f"{proto.domain}.{proto.op_type}".removeprefix("ai.onnx").lstrip(".")
        self.name, self.inputs = proto.name or proto.output[0], list(proto.input)
        self.output, self.training = proto.output[0], False
        self.attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self.constants = constants

    def get(self, name: str, default: Any = None, at: int | None = None) -> Any:
        """An attribute, or the constant input `at` that later versions of ONNX have instead."""
        if at is not None and any(self.inputs[at:at + 1]):
            if self.inputs[at] not in self.constants:
                raise self.fault(f"its {name} must be constant")
            return self.constants[self.inputs[at]].tolist()
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def of(self, table: dict[str, tuple[int, ...]]) -> list[str]:
        """The inputs that a table names."""
        places = table.get(self.operator, ())
        return [name for at, name in enumerate(self.inputs) if name and at in places]

    def fault(self, problem: str) -> Fault:
        """An error that names this node."""
        return Fault(f"node '{self.name}' ({self.operator}): {problem}")


def padded(node: Node, x: Tensor, value: float = 0.0) -> Tensor:
    """The features with the border that a window may reach into."""
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.get("ceil_mode"):
        raise node.fault("auto_pad and ceil_mode are not known here")
    if x.dim() != 4:
        raise node.fault("only windows of rows and columns are known here")
    top, left, bottom, right = pads = node.get("pads", (0, 0, 0, 0))
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Padding that is even is left to the convolution, which is faster."""
    top, left, bottom, right = node.get("pads", (0, 0, 0, 0))
    even = (top, left) == (bottom, right) and node.get("auto_pad", "NOTSET") == "NOTSET"
    x, padding = (x, (top, left)) if even else (padded(node, x), 0)
    return F.conv2d(x, weight, bias, node.get("strides", 1), padding, node.get("dilations", 1),
                    node.get("group", 1))


def average_pool(node: Node, x: Tensor) -> Tensor:
    """The border counts only where the node says so."""
    window = node.get("kernel_shape"), node.get("strides", 1)
    mean = F.avg_pool2d(padded(node, x), *window)
    if node.get("count_include_pad") or not any(node.get("pads", ())):
        return mean
    return mean / F.avg_pool2d(padded(node, x.new_ones(1, 1, *x.shape[2:])), *window)


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha a b + beta c."""
    a, b = (a.t() if node.get("transA") else a), (b.t() if node.get("transB") else b)
    c = a.new_zeros(1) if c is None else c
    return torch.addmm(c, a, b, alpha=node.get("alpha", 1.0), beta=node.get("beta", 1.0))


def cut(node: Node, x: Tensor, *_: Tensor) -> Tensor:
    """A slice."""
    starts, ends = node.get("starts", at=1), node.get("ends", at=2)
    axes, steps = node.get("axes", range(9), at=3), node.get("steps", [1] * 9, at=4)
    places = [slice(None)] * x.dim()
    for axis, *place in zip(axes, starts, ends, steps):
        places[axis] = slice(*place)
    return x[tuple(places)]


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": lambda n, x, scale, shift, mean, var: F.batch_norm(
        x, mean, var, scale, shift, n.training, momentum=0.1, eps=n.get("epsilon", 1e-5)),
    "Clip": lambda n, x, *_: x.clamp(n.get("min", -math.inf, 1), n.get("max", math.inf, 2)),
    "Concat": lambda n, *values: torch.cat(values, n.get("axis", 1)),
    "Conv": conv,
    "Div": lambda _, a, b: a / b,
    "Dropout": lambda n, x, *_: F.dropout(x, n.get("ratio", 0.5, 1), n.training),
    "Flatten": lambda n, x: x.reshape(math.prod(x.shape[:n.get("axis", 1)]), -1),
    "Gemm": gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda n, x: (x * n.get("alpha", 0.2) + n.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda _, x: F.hardswish(x),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda n, x: F.leaky_relu(x, n.get("alpha", 0.01)),
    "MatMul": lambda _, a, b: a @ b,
    "MaxPool": lambda n, x: F.max_pool2d(
        padded(n, x, -math.inf), n.get("kernel_shape"), n.get("strides", 1), 0,
        n.get("dilations", 1)),
    "Mul": lambda _, a, b: a * b,
    "PRelu": lambda _, x, slope: torch.where(x > 0, x, x * slope),
    "ReduceMean": lambda n, x, *_: x.mean(
        n.get("axes", None, 1) or tuple(range(x.dim())), keepdim=bool(n.get("keepdims", 1))),
    "Relu": lambda _, x: F.relu(x),
    "Reshape": lambda n, x, _: x.reshape(
        [dim or x.shape[at] for at, dim in enumerate(n.get("shape", at=1))]),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Slice": cut,
    "Softmax": lambda n, x: x.softmax(n.get("axis", -1)),
    "Sub": lambda _, a, b: a - b,
    "Tanh": lambda _, x: x.tanh(),
    "Transpose": lambda n, x: x.permute(n.get("perm", tuple(range(x.dim())[::-1]))),
    "Unsqueeze": lambda n, x, *_: functools.reduce(
        torch.unsqueeze, sorted(n.get("axes", at=1)), x),
}


class Network(nn.Module):
    """The network of an ONNX file, its tensors by the file's names."""

    def __init__(self, path: Path, weights: dict[str, Tensor] | None):
        super().__init__()
        try:
            graph = onnx.load_model_from_string(path.read_bytes()).graph
            held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
            [image] = [value for value in graph.input if value.name not in held]
            [output] = graph.output
        except OSError:
            raise
        except Exception as error:
            raise Fault(f"{path}: no ONNX file of one input and one output: {error}") from error
        self.shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]]
        self.image, self.output = image.name, output.name
        constants = {name: held[name] for name in held if name not in (weights or {})}
        self.nodes = [Node(proto, constants) for proto in graph.node]
        for node in self.nodes:
            if node.operator not in OPERATORS:
                raise node.fault(f"the operator {node.operator} is not known here")
        if self.output not in [node.output for node in self.nodes]:
            raise Fault(f"{path}: nothing computes '{self.output}', its output")
        self.readers = {name: node for node in self.nodes for name in node.inputs}  # the last ones
        self.take(path, held, self.own(held) if weights is None else weights)

    def own(self, held: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The model's own values of all that is learnt, and of running statistics."""
        names = [name for node in self.nodes for name in node.of(LEARNT) + node.of(STATISTICS)]
        return {name: torch.from_numpy(held[name].copy()) for name in names if name in held}

    def take(self, path: Path, held: dict[str, np.ndarray], weights: dict[str, Tensor]) -> None:
        """Makes parameters of what is learnt and in `weights`, and buffers of the rest."""
        learnt = {name for node in self.nodes for name in node.of(LEARNT)}
        self.names = {name: str(index) for index, name in enumerate(held)}  # of modules: no dots
        self.shapes = {name: value.shape for name, value in weights.items()}
        for name, value in weights.items():
            # A slope or a constant may have dimensions of 1 more in the model.
            if name not in held or held[name].squeeze().shape != value.squeeze().shape:
                raise Fault(f"{path}: the weights have a tensor {name} of {list(value.shape)}, "
                            "which is not in the model, or of another shape there")
            if value.dtype != torch.float32:
                raise Fault(f"{path}: {name} is {value.dtype}; only f32 can be trained")
        for name, key in self.names.items():
            value = torch.from_numpy(held[name].copy())
            value = weights.get(name, value).reshape(value.shape)
            if name in weights and name in learnt:
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value, persistent=name in weights)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        values = {name: getattr(self, key) for name, key in self.names.items()} | {self.image: x}
        for node in self.nodes:
            node.training = self.training
            try:
                inputs = [values[name] if name else None for name in node.inputs]
                values[node.output] = OPERATORS[node.operator](node, *inputs)
            except KeyError as error:
                raise node.fault(f"nothing computes {error}, which it reads") from error
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                raise node.fault(first_line(error)) from error
            for name in node.inputs:
                if self.readers[name] is node and name != self.output:
                    values.pop(name, None)
        return values[self.output].flatten(1)

    def groups(self, decay: float) -> list[dict[str, Any]]:
        """What is learnt, with and without weight decay."""
        decayed = {self.names.get(name) for node in self.nodes for name in node.of(DECAYED)}
        return [{"params": [value for key, value in self.named_parameters()
                            if (key in decayed) == with_decay],
                 "weight_decay": decay * with_decay} for with_decay in (True, False)]

    def weights(self) -> dict[str, Tensor]:
        """All that was in the weights, as it is now and in the shapes it had there."""
        return {name: getattr(self, self.names[name]).detach().cpu().reshape(shape)
                for name, shape in self.shapes.items()}


# The recipe.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are a manifest's."""

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 0.1
    schedule: str = "cosine"
    warmup_epochs: float = 0.5
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    flip: str = "horizontal"
    shift: int = 0
    held_out: float = 0.0  # 0: no early stop
    patience: int = 5
    seed: int = 1

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Recipe":
        """From a task; what is not known is left aside."""
        stop = fields.get("early_stop") or {"heldOut": cls.held_out, "patience": cls.patience}
        fields = fields | {"held_out": stop["heldOut"], "patience": stop["patience"]}
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: fields[name] for name in names if name in fields})

    def check(self) -> None:
        """Refuses what this program cannot follow; other limits are PyTorch's."""
        rules = {"epochs": self.epochs > 0, "batch": self.batch > 0, "patience": self.patience > 0,
                 "schedule": self.schedule in ("cosine", "step", "one-cycle"),
                 "flip": self.flip in ("none", "horizontal"), "shift": self.shift >= 0,
                 "held_out": 0 <= self.held_out <= 0.5}
        for name in (name for name, holds in rules.items() if not holds):
            raise Fault(f"the recipe's {name} cannot be {getattr(self, name)}")

    def rate(self, step: int, per_epoch: int) -> float:
        """The learning rate of a step, counted from 0."""
        steps = self.epochs * per_epoch
        warmup = min(math.floor(self.warmup_epochs * per_epoch + 0.5), steps - 1)
        top = max(0.3 * steps - 1, 0)  # of one-cycle, as PyTorch's OneCycleLR has it
        if self.schedule == "one-cycle" and step <= top:
            share = half_cosine(1 / 25, 1, step / top if top else 1)
        elif self.schedule == "one-cycle":
            share = half_cosine(1, 1 / 250_000, (step - top) / (max(steps - 1, 1) - top))
        elif step < warmup:
            share = (step + 1) / (warmup + 1)
        elif self.schedule == "cosine":
            share = half_cosine(1, 0, (step - warmup) / (steps - warmup))
        else:
            share = (1, 1, 0.1, 0.01)[4 * step // steps]
        return self.learning_rate * share


def half_cosine(start: float, end: float, done: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def moved(images: Tensor, recipe: Recipe) -> Tensor:
    """Each image mirrored and shifted at random; black comes in."""
    if recipe.flip == "none" and not recipe.shift:
        return images
    (count, channels, height, width), most = images.shape, recipe.shift
    mirrored = torch.rand(count, 1) < (0.5 if recipe.flip == "horizontal" else 0)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1))
    columns = torch.arange(width)
    columns = torch.where(mirrored, columns.flip(0), columns) + right
    rows = torch.arange(height) + down
    places = (torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None],
              rows[:, None, :, None], columns[:, None, None, :])
    places = tuple(place.to(images.device, non_blocking=True) for place in places)
    return F.pad(images, [most] * 4)[places]


# Training.


@dataclasses.dataclass
class Task:
    """What to train, on what and how."""

    model: Path
    weights: Path | None
    images: Tensor
    labels: Tensor
    mean: list[float]
    std: list[float]
    classes: int | None  # None: as many as the network has outputs
    recipe: Recipe
    checkpoints: Path | None
    output: Path


class Trainer:
    """Training under way."""

    def __init__(self, task: Task):
        self.task, self.recipe = task, task.recipe
        self.recipe.check()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        weights = read_safetensors(task.weights) if task.weights else None
        self.network = Network(task.model, weights).to(self.device)
        self.check()
        share = float(np.float32(self.recipe.held_out))
        taken = torch.floor(torch.arange(len(task.labels) + 1, dtype=torch.float64) * share).diff()
        self.train, self.held_out = (taken == 0).nonzero()[:, 0], taken.nonzero()[:, 0]
        self.per_epoch = len(self.train) // self.recipe.batch
        if not self.per_epoch or (share and not len(self.held_out)):
            raise Fault(f"{len(self.train)} training images do not fill a batch of "
                        f"{self.recipe.batch}, or none is held out: use more images")
        self.optimiser = torch.optim.SGD(
            self.network.groups(self.recipe.weight_decay), self.recipe.learning_rate,
            self.recipe.momentum, nesterov=self.recipe.nesterov and self.recipe.momentum > 0)
        self.epoch = 0  # how many are done
        self.best: dict[str, Any] | None = None  # of the epochs, by the images held out

    def check(self) -> None:
        """Refuses images and classes that are not the network's, running it once."""
        task, shape = self.task, list(self.task.images.shape[1:])
        if shape != self.network.shape:
            reads, has = ("x".join(map(str, dims)) for dims in (self.network.shape, shape))
            raise Fault(f"the network reads {reads} images, but these are {has}")
        if not len(task.mean) == len(task.std) == shape[0] or min(task.std) <= 0:
            raise Fault(f"mean and std need a number for each of {shape[0]} channels, std above 0")
        self.mean, self.std = (self.sent(torch.tensor(each).reshape(-1, 1, 1))
                               for each in (task.mean, task.std))
        with torch.no_grad():
            outputs = self.network.eval()(self.normalised(task.images[:1].repeat(2, 1, 1, 1)))
        classes = task.classes or outputs.shape[1]
        if outputs.shape != (2, classes):
            raise Fault(f"the network has {outputs.shape[1]} outputs for {classes} classes")
        if not 0 <= task.labels.min() <= task.labels.max() < classes:
            raise Fault(f"the labels are not all below {classes}, the number of classes")

    def normalised(self, images: Tensor) -> Tensor:
        """What the network reads, on its device."""
        return (self.sent(images).float() / 255 - self.mean) / self.std

    def sent(self, tensor: Tensor) -> Tensor:
        """The same on the network's device, which is not waited for."""
        return tensor.to(self.device, non_blocking=True)

    def run(self) -> None:
        """Trains, going on from a checkpoint if there is one, and writes the weights."""
        self.resume()
        while self.epoch < self.recipe.epochs and not self.is_stale():
            self.one_epoch()
            self.look_at_held_out()
            self.save()
        if self.best:
            self.network.load_state_dict(self.best["network"])
        weights = self.network.weights()
        for name in (name for name, value in weights.items() if not value.isfinite().all()):
            raise Fault(f"training diverged: {name} is not finite; try a lower learning rate")
        write_safetensors(self.task.output, weights)

    def is_stale(self) -> bool:
        """Whether the images held out got no better for long enough."""
        return bool(self.best) and self.epoch - self.best["epoch"] >= self.recipe.patience

    def one_epoch(self) -> None:
        """One pass over the images. All chance comes from the seed and the epoch."""
        torch.manual_seed(random.Random(f"{self.recipe.seed}/{self.epoch}").getrandbits(63))
        self.network.train()
        order = self.train[torch.randperm(len(self.train))].split(self.recipe.batch)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        start = reported = time.monotonic()
        for step, chosen in enumerate(order[:self.per_epoch], 1):
            sums += self.step(chosen, self.epoch * self.per_epoch + step - 1)
            if step == self.per_epoch or time.monotonic() - reported >= REPORT_EVERY:
                loss, correct = sums.tolist()
                reported = time.monotonic()
                self.report(step, loss, correct, reported - start)
        self.epoch += 1

    def step(self, chosen: Tensor, number: int) -> Tensor:
        """Learns from a batch; its loss and how many were right, left on the device."""
        images = moved(self.sent(self.task.images[chosen]), self.recipe)
        labels = self.sent(self.task.labels[chosen])
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate(number, self.per_epoch)
        logits = self.network(self.normalised(images))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()]).double()

    def report(self, steps: int, loss: float, correct: float, seconds: float) -> None:
        """A line of progress; a loss that is no number any more ends training."""
        if not math.isfinite(loss):
            raise Fault(f"training diverged in epoch {self.epoch + 1}: the loss is not finite; "
                        "try a lower learning rate")
        images = steps * self.recipe.batch
        print(json.dumps({"epoch": self.epoch + 1, "epochs": self.recipe.epochs,
                          "loss": loss / steps, "accuracy": correct / images,
                          "images_per_second": images / seconds}), flush=True)

    @torch.no_grad()
    def look_at_held_out(self) -> None:
        """Keeps the weights if the images held out have their lowest loss."""
        if not self.recipe.held_out:
            return
        self.network.eval()
        loss = 0.0
        for chosen in self.held_out.split(self.recipe.batch):
            logits = self.network(self.normalised(self.task.images[chosen])).cpu()
            loss += F.cross_entropy(logits, self.task.labels[chosen], reduction="sum").item()
        if self.best is None or loss < self.best["loss"]:
            state = {key: value.cpu().clone() for key, value in self.network.state_dict().items()}
            self.best = {"epoch": self.epoch, "loss": loss, "network": state}

    def mark(self) -> dict[str, Any]:
        """What a checkpoint must be of for training to go on from it."""
        files = [path.read_bytes() for path in (self.task.model, self.task.weights) if path]
        return {"recipe": dataclasses.asdict(self.recipe), "images": list(self.task.images.shape),
                "mean": self.task.mean, "std": self.task.std,
                "files": [hashlib.sha256(file).hexdigest() for file in files]}

    def save(self) -> None:
        """Writes down where training stands between two epochs."""
        if self.task.checkpoints:
            data = io.BytesIO()
            torch.save({"mark": self.mark(), "epoch": self.epoch, "best": self.best,
                        "network": self.network.state_dict(),
                        "optimiser": self.optimiser.state_dict()}, data)
            replace(self.task.checkpoints / "checkpoint.pt", [data.getbuffer()])

    def resume(self) -> None:
        """Goes on from the checkpoint if there is one that fits."""
        path = self.task.checkpoints and self.task.checkpoints / "checkpoint.pt"
        if not path or not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu")
            if state["mark"] != self.mark():
                raise Fault("it is of another network, recipe or data set")
        except Exception as error:
            print(f"train_torch: {path} is not used, training begins anew: {first_line(error)}",
                  file=sys.stderr, flush=True)
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.best = state["epoch"], state["best"]


# Start and end.


def read_task(path: Path) -> Task:
    """What the coordinator wants."""
    try:
        fields = json.loads(path.read_bytes())
        if fields["version"] != VERSION:
            raise Fault(f"{path}: version {fields['version']} is not known, only {VERSION}")
        model, weights, checkpoints, output, images = (Path(fields[name]) for name in (
            "model", "weights", "checkpoints", "output", "images"))
        return Task(model, weights, *read_images(images), fields["mean"], fields["std"],
                    fields["classes"], Recipe.of(fields["recipe"]), checkpoints, output)
    except KeyError as error:
        raise Fault(f"{path}: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise Fault(f"{path}: no task: {error}") from error


def task_by_hand(options: argparse.Namespace) -> Task:
    """The same from the command line. Mean and deviation are those of all training images."""
    images, labels = read_images(options.images)
    mean, std = moments(images)
    mean, std = options.mean or mean, options.std or std
    print("mean", *mean, "std", *std, flush=True)
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: getattr(options, name) for name in names})
    return Task(options.model, options.weights, images[:options.limit], labels[:options.limit],
                mean, std, None, recipe, options.checkpoints, options.out)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", type=Path, help="task.json; all else is by hand")
    hand = parser.add_argument_group("by hand")
    for name, kind, text in (
            ("model", Path, "pruned network, ONNX"),
            ("weights", Path, "what training starts from, safetensors; else what the model has"),
            ("images", Path, "safetensors, or a folder of IDX files"),
            ("out", Path, "where the trained weights go, safetensors"),
            ("checkpoints", Path, "a folder; started again, training goes on from there"),
            ("limit", int, "use only the first so many images")):
        hand.add_argument(f"--{name}", type=kind, help=text)
    for name in ("mean", "std"):
        hand.add_argument(f"--{name}", type=float, nargs="+", help="by channel; else measured")
    for field in dataclasses.fields(Recipe):
        kind = ({"action": argparse.BooleanOptionalAction} if field.type is bool
                else {"type": field.type, "help": f"{field.default}, if not given"})
        hand.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, **kind)
    options = parser.parse_args()
    if not options.task and not (options.model and options.images and options.out):
        parser.error("give task.json, or --model, --images and --out")
    return options


def end_with_input() -> None:
    """Ends the process when standard input ends: nobody wants this training any more."""
    try:
        while os.read(0, 4096):
            pass
    finally:
        os.write(2, b"train_torch: stopped: standard input has ended\n")
        os._exit(1)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return str(error).partition("\n")[0] or type(error).__name__


def is_for_now(error: BaseException) -> bool:
    """Whether a later try may do better: a disk is full, or a GPU taken."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    signs = ("CUDA out of memory", "ALLOC_FAILED", "busy or unavailable")
    text = f"{error} {error.__cause__}"
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in text for sign in signs)


def main() -> int:
    """Trains; the exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options = parse()
    if options.task:
        threading.Thread(target=end_with_input, daemon=True).start()
    torch.backends.cudnn.benchmark = True
    try:
        Trainer(read_task(options.task) if options.task else task_by_hand(options)).run()
        return 0
    except Exception as error:
        for_now = is_for_now(error)
        if not for_now and not isinstance(error, (Fault, OSError)):
            traceback.print_exc()
        text = f"not now: {first_line(error)}" if for_now else first_line(error)
        print(f"train_torch: {text}", file=sys.stderr, flush=True)
        return NOT_NOW if for_now else 1


if __name__ == "__main__":
    sys.exit(main())
