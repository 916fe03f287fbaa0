"""Every dependency's licence must allow distribution under MIT OR Apache-2.0.

Works offline, from `cargo metadata`. An advisory check needs a database from the network:
where `cargo-deny` is installed, run `cargo deny check advisories` beside this.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD",
    "Unicode-3.0", "CC0-1.0", "MIT-0", "BSL-1.0", "MPL-2.0", "OpenSSL", "Unlicense", "CDLA-Permissive-2.0", "NCSA",
}
# Crates that name no SPDX expression, with the licence their licence file was read to be.
READ = {"cfg_block": "Apache-2.0"}


def allowed(expression):
    """Evaluates an SPDX expression with AND, OR and parentheses."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    words, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        if token in "()":
            words.append(token)
        elif token in ("AND", "OR"):
            words.append(token.lower())
        else:
            if i + 2 < len(tokens) and tokens[i + 1] == "WITH":
                token, i = f"{token} WITH {tokens[i + 2]}", i + 2
            words.append(str(token in ALLOWED))
        i += 1
    return eval(" ".join(words))  # only True, False, and, or and parentheses get here


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    packages = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packages"]
    bad = [p for p in packages if p["source"] and not allowed(p["license"] or READ.get(p["name"], "none"))]
    for package in bad:
        print(f"{package['name']} {package['version']}: {package['license'] or package['license_file']}")
    print(f"licences: {len(packages)} packages, {len(bad)} not allowed")
    sys.exit(bool(bad))


main()
