#!/bin/sh
# Builds the agent's Debian package into target/debian. Needs cargo-deb; says how to get it.
#
#   deploy/package.sh                                   for this machine
#   deploy/package.sh --no-build                        of the binary that is in target/release
#   deploy/package.sh --target aarch64-unknown-linux-gnu
set -eu
cd "$(dirname "$0")/.."
wanted=3.8.0
if [ "$(cargo deb --version 2>/dev/null)" != "cargo-deb $wanted" ]; then
    echo "package.sh: first: cargo install --locked --no-default-features --version $wanted cargo-deb" >&2
    exit 1
fi

# The manual and the completions are this machine's work, whatever the package is for.
cargo run --quiet --locked -p agent --example manual -- target/manual
cargo deb --quiet --locked -p agent "$@"
