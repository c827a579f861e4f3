"""The table of methods."""

from __future__ import annotations

from medrecon.errors import BadInput, nearest
from medrecon.recon.alone import ALONE
from medrecon.recon.pairs import PAIRS
from medrecon.recon.recipe import Recipe
from medrecon.recon.tomography import TOMOGRAPHY

METHODS: dict[str, Recipe] = {recipe.name: recipe for recipe in (*PAIRS, *ALONE, *TOMOGRAPHY)}


def recipe(method: str) -> Recipe:
    """The named recipe, or an error that offers the nearest name."""
    if method not in METHODS:
        raise BadInput(f"no method {method!r}: there are {', '.join(METHODS)}{nearest(method, list(METHODS))}")
    return METHODS[method]
