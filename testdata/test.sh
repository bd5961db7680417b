#!/usr/bin/env bash
# Runs every test, after installing the programs that they use (Debian and Ubuntu, as root or sudo).
#
#   test.sh [packages | CARGO-TEST-ARGUMENTS...]
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  apache2-utils buildah busybox-static ca-certificates curl docker-registry docker.io gcc git iptables
  libc6-dev libcap2-bin mmdebstrap openssh-client openssl pigz skopeo slirp4netns uidmap umoci procps python3 python3-venv qemu-user-static util-linux xz-utils bzip2 zstd xattr
)
# A docker client that did not come from Debian still wants Debian's daemon.
command -v npm >/dev/null || packages+=(npm)

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}"
}

install_packages
testdata/clients/install.sh
# Where no udev runs, the kernel's own mode keeps ordinary users from making a network.
if [ -c /dev/net/tun ] && [ "$(id -u)" = 0 ]; then
  chmod 0666 /dev/net/tun
fi
[ "${1-}" != packages ] || exit 0
exec cargo test --workspace --locked "$@"
