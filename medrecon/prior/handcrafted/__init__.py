"""Denoisers by formula, for those who trust no network: they know no anatomy and need no training images."""

from medrecon.prior.handcrafted.base import Handcrafted
from medrecon.prior.handcrafted.locally_lowrank import LocallyLowRank
from medrecon.prior.handcrafted.nonlocal_means import NonLocalMeans
from medrecon.prior.handcrafted.total_variation import TotalVariationPrior
from medrecon.prior.handcrafted.wavelet import WaveletPrior

BY_NAME: dict[str, type[Handcrafted]] = {
    "tv": TotalVariationPrior,
    "wavelet": WaveletPrior,
    "nlm": NonLocalMeans,
    "llr": LocallyLowRank,
}
"""What `medrecon.prior.load` and `--prior` call them."""

__all__ = ["BY_NAME", "Handcrafted", "LocallyLowRank", "NonLocalMeans", "TotalVariationPrior", "WaveletPrior"]
