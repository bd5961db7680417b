#!/usr/bin/env bash
# From a fresh Debian or Ubuntu with Rust to the example's page: installs what is missing, builds
# rbuild, gets or makes node:14, builds testdata/app-node, starts it and prints what it answers.
set -euo pipefail
cd "$(dirname "$0")/.."

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
missing=()
for pair in curl:curl cc:gcc slirp4netns:slirp4netns newuidmap:uidmap; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
  "${sudo[@]}" apt-get update -q
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" ca-certificates libc6-dev
fi

# Where no udev runs, the kernel's own mode keeps ordinary users from making a network.
if [ -c /dev/net/tun ] && [ ! -w /dev/net/tun ]; then
  "${sudo[@]}" chmod 0666 /dev/net/tun
fi

cargo build --release --locked
PATH=${CARGO_TARGET_DIR:-$PWD/target}/release:$PATH

if ! rbuild inspect node:14 >/dev/null 2>&1 && ! rbuild pull node:14; then
  echo "No registry has node:14 for us: making it out of packages."
  RBUILD=rbuild testdata/bases/make.sh debian node
fi

# Where the network ends TLS with a private authority, its certificate must reach npm too.
rbuild -t app-node:1 ${SSL_CERT_FILE:+--ca-cert "$SSL_CERT_FILE"} testdata/app-node

# npm's shell is the first process, which no SIGTERM ends.
rbuild run --rm --stop-timeout 1 -p 8081:3000 app-node:1 &
app=$!
trap 'kill $app 2>/dev/null; wait $app 2>/dev/null || true' EXIT
for _ in $(seq 100); do
  kill -0 $app 2>/dev/null || { echo "the example ended before it answered" >&2; exit 1; }
  if page=$(curl -fsS http://127.0.0.1:8081/ 2>/dev/null); then
    printf 'http://127.0.0.1:8081/ answers:\n%s\n' "$page"
    exit 0
  fi
  sleep 0.1
done
echo "no answer on port 8081 after 10 s" >&2
exit 1
