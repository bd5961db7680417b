#!/usr/bin/env bash
# Makes base images out of packages, for machines that reach no image registry.
#
#   make.sh [busybox|debian|node]...     all three when none is named
#
# Debian's packages and the npm registry give the files; rbuild itself builds the images
# busybox:latest, debian:bookworm-slim and node:14 from them into its local store.
#   RBUILD    the rbuild to use (default: rbuild on PATH)
#   RBUILD_STORE and rbuild's other variables are passed on as they are.
set -euo pipefail
cd "$(dirname "$0")"
rbuild=${RBUILD:-rbuild}
node_version=14.21.3
npm_version=6.14.18

need() { # program, Debian package
  command -v "$1" >/dev/null && return
  echo "make.sh: installing $2 for $1" >&2
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get install -y --no-install-recommends "$2" >&2
}

# Runs "$2.." unless the file "$1" is there; the file appears whole or not at all.
once() {
  local file=$1
  shift
  [ -s "$file" ] || { "$@" "$file.part" && mv "$file.part" "$file"; }
}

busybox_rootfs() {
  need busybox busybox-static
  local root
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,dev,etc,home,proc,root,sys,tmp,usr/bin,usr/sbin,var}
  chmod 1777 "$root/tmp"
  chmod 700 "$root/root"
  cp "$(command -v busybox)" "$root/bin/busybox"
  "$root/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\n' >"$root/etc/group"
  pack "$root" "$1"
}

debian_rootfs() {
  need mmdebstrap mmdebstrap
  mmdebstrap --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --format=tar bookworm "$1"
}

node_rootfs() {
  need npm npm
  local work arch
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) echo "make.sh: no node package for $(uname -m)" >&2; return 1 ;;
  esac
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent "node-linux-$arch@$node_version" "npm@$npm_version" >/dev/null)
  mkdir -p "$work"/root/lib/node_modules/npm
  tar -xzf "$work/node-linux-$arch-$node_version.tgz" --strip-components=1 -C "$work/root" \
    package/bin package/include package/share
  tar -xzf "$work/npm-$npm_version.tgz" --strip-components=1 -C "$work/root/lib/node_modules/npm"
  chmod +x "$work"/root/bin/node "$work"/root/lib/node_modules/npm/bin/*.js
  ln -s node "$work/root/bin/nodejs"
  ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$work/root/bin/npm"
  ln -sf ../lib/node_modules/npm/bin/npx-cli.js "$work/root/bin/npx"
  pack "$work/root" "$1"
  rm -rf "$work"
}

pack() { # directory, tar
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$1" -cf "$2" .
  rm -rf "$1"
}

[ $# -gt 0 ] || set -- busybox debian node
for base; do
  case $base in
    busybox) once busybox/rootfs.tar busybox_rootfs; "$rbuild" -t busybox:latest busybox ;;
    debian) once debian/rootfs.tar debian_rootfs; "$rbuild" -t debian:bookworm-slim debian ;;
    node) once node/rootfs.tar node_rootfs; "$rbuild" -t node:14 node ;;
    *) echo "make.sh: no such base: $base" >&2; exit 2 ;;
  esac
done
