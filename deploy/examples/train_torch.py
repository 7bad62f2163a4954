#!/usr/bin/env python3
"""Trains a pruned network with PyTorch: a trainer for `trainer: command`, and for use by hand.

The coordinator starts it with the path of a task (docs/training-elsewhere.md); by hand it takes
the same things as options. It builds the network from its ONNX file, trains it by the recipe, on
a GPU where there is one, and writes the trained weights as safetensors. It needs PyTorch 1.13 or
later, onnx and numpy, and onnx_torch.py beside it.
"""

import argparse
import dataclasses
import errno
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_torch import Fault, Network, first_line

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
