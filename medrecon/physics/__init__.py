"""Scanners: what was measured, by which operator. One folder a modality."""

from medrecon.physics import ct, mri

__all__ = ["ct", "mri"]
