"""A pruned network's ONNX file as a PyTorch module: what train_torch.py, which lies beside it, trains."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn


class Fault(Exception):
    """What the operator can put right; the text becomes the last line on standard error."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return str(error).partition("\n")[0] or type(error).__name__


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
