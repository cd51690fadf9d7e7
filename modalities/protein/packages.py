"""The pinned packages that protein data come in."""

from __future__ import annotations

from multigen.assets import Asset, DebianAsset

CGDMS = Asset(
    name="cgdms",
    version="1.0",
    file="cgdms-1.0-py3-none-any.whl",
    sha256="8a7a9ea86df276acc7063b1c162cfbb20a8dd380cef345294f85817558798ca0",
    size=51_631_438,
    licence="MIT",
)
PROMOD3 = DebianAsset(
    name="promod3-data",
    version="3.2.1+ds-6",
    file="promod3-data_3.2.1+ds-6_all.deb",
    sha256="7d1011a2686ea92e263f3daf9940f787351ff94f19eb47646c624754d80b8f56",
    size=371_348_316,
    licence="Apache-2.0",
)
