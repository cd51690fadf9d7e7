"""The pinned packages that molecules come in."""

from __future__ import annotations

from multigen.assets import Asset

BIOTITE = Asset(
    name="biotite",
    version="1.6.0",
    file="biotite-1.6.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="f1179c10d8beeb95fe5c11db0ee5384501d97d28cedee8c60edc044d96fbf6c4",
    size=55_651_123,
    licence="CC0-1.0",
)
"""Of which only the Chemical Component Dictionary is read (the package's code: BSD-3-Clause)."""
COMPONENTS = "biotite/structure/info/components.bcif"
