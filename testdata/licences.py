#!/usr/bin/env python3
"""Checks that every dependency has a licence that an Apache-2.0 program may be shipped with."""

import json
import subprocess
import sys

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-1-Clause", "BSD-2-Clause",
    "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0",
    "Unicode-3.0", "Unlicense", "Zlib", "bzip2-1.0.6",
}


def allowed(expression: str) -> bool:
    """Decides an SPDX expression: some alternative of `OR` whose every part of `AND` is allowed."""
    flat = expression.replace("/", " OR ")
    if "(" in flat:
        start = flat.rindex("(")
        end = flat.index(")", start)
        inner = "MIT" if allowed(flat[start + 1:end]) else "refused"
        return allowed(flat[:start] + inner + flat[end + 1:])
    return any(
        all(part.strip() in ALLOWED for part in choice.split(" AND "))
        for choice in flat.split(" OR ")
    )


def main() -> int:
    metadata = json.loads(subprocess.check_output(
        ["cargo", "metadata", "--format-version=1", "--locked"]))
    refused = [
        f"{package['name']} {package['version']}: {package['license'] or 'no licence named'}"
        for package in metadata["packages"]
        if not allowed(package["license"] or "")
    ]
    print("\n".join(refused) or f"{len(metadata['packages'])} packages, all licences allowed")
    return 1 if refused else 0


sys.exit(main())
