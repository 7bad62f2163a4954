#!/bin/sh
# Installs onnxruntime into target/peers, where pruner-core/tests/onnxruntime.rs, agent/tests/it/engines.rs and the study look
# for it.
set -eu
cd "$(dirname "$0")/../.."
wanted=1.32.0
test -d "target/peers/onnxruntime-$wanted.dist-info" ||
    "${PYTHON:-python3}" -m pip install --quiet --target target/peers "onnxruntime==$wanted" numpy
