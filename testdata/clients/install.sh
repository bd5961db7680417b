#!/usr/bin/env bash
# Installs the clients that the tests use, from PyPI and npm, into target/clients.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=target/clients
wanted="docker==7.1.0 schemathesis==4.32.5 dockerode@5.0.1"
[ "$(cat "$place/installed" 2>/dev/null)" != "$wanted" ] || exit 0
mkdir -p "$place"
python3 -m venv "$place"
"$place/bin/pip" install -q docker==7.1.0 schemathesis==4.32.5
npm install --silent --no-fund --no-audit --prefix "$place" dockerode@5.0.1
echo "$wanted" > "$place/installed"
