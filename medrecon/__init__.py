"""From raw medical scanner data to images: read a scan, reconstruct it, write the volume.

    scan = medrecon.read("scan.h5")
    result = medrecon.reconstruct(scan, method="dds")
    medrecon.write(result.volume, "image.nii.gz")

Names are loaded on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrecon import errors, physics, prior
    from medrecon.io import read, write
    from medrecon.recon.pipeline import reconstruct
    from medrecon.recon.solve import infer, solve
    from medrecon.volume import Volume

    __version__: str

__all__ = ["Volume", "__version__", "errors", "infer", "physics", "prior", "read", "reconstruct", "solve", "write"]

_MODULES = ("errors", "physics", "prior")
_HOMES = {
    "read": "medrecon.io",
    "write": "medrecon.io",
    "reconstruct": "medrecon.recon.pipeline",
    "solve": "medrecon.recon.solve",
    "infer": "medrecon.recon.solve",
    "Volume": "medrecon.volume",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"medrecon.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("medrecon")
    raise AttributeError(f"module 'medrecon' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
