"""Scanners: what was measured, by which operator. One folder a modality."""

from medrecon.physics import mri

__all__ = ["mri"]
