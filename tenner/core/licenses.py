"""Licences of data and models, by their names on the Hugging Face hub."""

OPEN = {
    "afl-3.0", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "isc", "mit", "ms-pl", "mpl-2.0", "odbl", "odc-by", "pddl", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
"""Under which data may be passed on and changed, besides Creative Commons' BY and BY-SA."""


def is_open(license_id: str) -> bool:
    """Whether a licence lets anybody pass the data on, changed or not, for any purpose."""
    known = license_id.lower()
    return known in OPEN or (known.startswith("cc-by-") and "-nc" not in known and "-nd" not in known)
