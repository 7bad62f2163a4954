#!/usr/bin/env bash
# Builds the agent's Debian package for another architecture on this one, in a Debian 12 of its own: Debian's compilers, and the
# libraries of the oldest Debian that the package runs on. Leaves it in target/debian.
#
#   deploy/cross.sh [arm64]
#
# Needs root, the Debian packages debootstrap and systemd-container, and cargo-deb (deploy/package.sh says how to get it).
# Debian's root is made once, in $RECONVENE_TESTS_CACHE (/var/cache/reconvene-tests). The binary is then started under qemu.
set -euo pipefail
cd "$(dirname "$0")/.."

architecture=${1:-arm64}
case $architecture in
arm64) triple=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu qemu=aarch64 ;;
*) echo "cross.sh: $architecture is not known here; arm64 is" >&2; exit 2 ;;
esac
root=${RECONVENE_TESTS_CACHE:-/var/cache/reconvene-tests}/cross-$architecture
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# Apart from the other builds: another compiler's, and neither waits for the other.
built=$target/cross
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")

make_root() {
    [[ ! -e $root/usr/bin/$gnu-gcc ]] || return 0
    rm -rf "$root" "$root.new"
    mkdir -p "$(dirname "$root")"
    debootstrap --variant=minbase bookworm "$root.new" >/dev/null
    echo "deb http://deb.debian.org/debian-security bookworm-security main" >>"$root.new/etc/apt/sources.list"
    within "$root.new" dpkg --add-architecture "$architecture"
    within "$root.new" apt-get update -qq
    within "$root.new" apt-get install -y -qq --no-install-recommends rustc-web cargo-web "libstd-rust-web-dev:$architecture" \
        gcc "gcc-$gnu" "libc6-dev-$architecture-cross" libc6-dev qemu-user-static >/dev/null
    mv "$root.new" "$root"
}

# within ROOT COMMAND...: this checkout lies at /src there.
within() {
    local root=$1
    shift
    systemd-nspawn -q -D "$root" --register=no --keep-unit --resolv-conf=copy-host \
        --bind="$PWD:/src" --bind="$built:/target" --bind="$cargo_home/registry:/cargo/registry" --chdir=/src \
        -E DEBIAN_FRONTEND=noninteractive -E CARGO_HOME=/cargo -E CARGO_TARGET_DIR=/target \
        -E "CC_${triple//-/_}=$gnu-gcc" -E "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_LINKER=$gnu-gcc" \
        "$@"
}

mkdir -p "$built"
cargo fetch --quiet --locked
make_root
within "$root" cargo build --offline --locked --release -p agent --target "$triple"
echo "built; the binary says under qemu:"
within "$root" "qemu-$qemu-static" -L "/usr/$gnu" "/target/$triple/release/reconvene-agent" --version
install -D "$built/$triple/release/reconvene-agent" "$target/$triple/release/reconvene-agent"
deploy/package.sh --no-build --target "$triple" --output "$target/debian/"
stat -c '%s bytes  %n' "$target/$triple/release/reconvene-agent" "$target"/debian/*_"$architecture".deb
