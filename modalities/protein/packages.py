"""The pinned packages that protein data come in, and the viewer of the report."""

from __future__ import annotations

from multigen.assets import Asset, DebianAsset, NpmAsset

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
VIEWER = NpmAsset(
    name="3dmol",
    version="2.5.5",
    file="3dmol-2.5.5.tgz",
    sha256="26d91c5036d4efe78fc032c22cb692fea92bbb3cb1e65d20bf3869673fb3d8f5",
    size=4_231_158,
    licence="BSD-3-Clause",
)
VIEWER_SCRIPT = "package/build/3Dmol-min.js"
