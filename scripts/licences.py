"""The licences of the pinned dependencies, as their installed metadata has them; fails for one that is not compatible.

    python scripts/licences.py            # a line for each licence, with its packages
    python scripts/licences.py --check    # only those that are unknown or not compatible

Compatible with Apache-2.0 is what may be used and passed on unchanged beside it: permissive licences, and MPL-2.0,
whose conditions hold for its own files alone. tenner copies no dependency into itself.
"""

import importlib.metadata
import re
import sys
from collections import defaultdict
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
COMPATIBLE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
}  # fmt: skip
"""SPDX identifiers."""
SPDX = {
    "Apache Software License": "Apache-2.0", "Apache 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0",
    "BSD License": "BSD-3-Clause", "BSD": "BSD-3-Clause", "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC", "MIT License": "MIT", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip
"""The SPDX identifiers of older metadata's words."""


def pinned() -> list[str]:
    """The packages in constraints.txt."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def licence_of(package: str) -> str:
    """The SPDX expression of an installed package's licence. Raises PackageNotFoundError for one that is not."""
    found = importlib.metadata.metadata(package)
    if expressions := found.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = [line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or [] if line[:7] == "License"]
    words = classifiers or [line.partition("\n")[0] for line in found.get_all("License") or ["none stated"]]
    return " OR ".join(SPDX.get(word, word) for word in words)


def is_compatible(expression: str) -> bool:
    """Whether all licences of an SPDX expression are compatible, or of alternatives one."""
    terms = (re.split(r" AND ", alternative.strip("() ")) for alternative in expression.split(" OR "))
    return any(all(term.strip("() ") in COMPATIBLE for term in alternative) for alternative in terms)


def main() -> int:
    """Print the table; 1 where a licence is unknown or not compatible."""
    packages: defaultdict[str, list[str]] = defaultdict(list)
    missing = []
    for package in pinned():
        try:
            packages[licence_of(package)].append(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    wrong = [expression for expression in packages if not is_compatible(expression)]
    for expression in sorted(wrong if "--check" in sys.argv else packages):
        mark = "NOT KNOWN TO BE COMPATIBLE: " if expression in wrong else ""
        print(f"{mark}{expression}: {', '.join(packages[expression])}")
    if missing:
        print(f"not installed here, and not looked at: {', '.join(missing)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
