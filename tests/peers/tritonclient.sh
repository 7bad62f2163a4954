#!/bin/sh
# Installs tritonclient into target/tritonclient, where agent/tests/it/protocol.rs looks for it.
set -eu
cd "$(dirname "$0")/../.."
to=${CARGO_TARGET_DIR:-target}/tritonclient
wanted=2.73.0
test -d "$to/tritonclient-$wanted.dist-info" ||
    "${PYTHON:-python3}" -m pip install --quiet --target "$to" "tritonclient[grpc,http]==$wanted"
