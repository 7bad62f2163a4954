#!/bin/sh
# Installs onnxruntime into target/peers, where pruner-core/tests/onnxruntime.rs looks for it.
set -eu
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m pip install --quiet --target target/peers onnxruntime==1.32.0 numpy
