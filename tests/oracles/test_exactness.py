"""The figures beside every method's name are what its draws do: measured again, and right where a method claims to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medrecon.recon.recipes import METHODS
from tests.oracles.exactness import FAMILIES, HEADLINE, TABLE, count, measure, page, ready_recipe, variants

KNOWN: dict[str, dict[str, dict[str, Any]]] = json.loads(TABLE.read_text(encoding="utf-8"))
QUICK = 110
"""Evaluations of the prior up to which a row is measured again every time; longer ones, and gradients, with the slow tests."""


def cells() -> list[Any]:
    found = []
    for name in variants():
        for family in FAMILIES:
            known = KNOWN.get(name, {}).get(family, {})
            slow = family != HEADLINE or known.get("evaluations", 1e9) > QUICK or "jacobian" in METHODS[variants()[name][0]].needs
            found.append(pytest.param(name, family, marks=[pytest.mark.slow] if slow else [], id=f"{name} {family}"))
    return found


def test_the_table_has_every_method() -> None:
    assert set(KNOWN) == set(variants())
    for rows in KNOWN.values():
        assert set(rows) == set(FAMILIES)


@pytest.mark.parametrize(("name", "family"), cells())
def test_a_method_is_as_exact_as_the_table_says(name: str, family: str) -> None:
    expected = KNOWN[name][family]
    if "refused" in expected:
        pytest.skip("refused or diverges by design; said in the table")
    method, preset = variants()[name]
    ready = ready_recipe(method, preset)
    found = measure(ready, FAMILIES[family].make(), min(count(ready), 600), seed=1)
    # 600 draws tell a mean within 4 % and a spread within 3 %; another seed, so this is no repetition of the same numbers.
    assert found.bias == pytest.approx(expected["bias"], abs=0.07, rel=0.08)
    if ready.kind != "point":
        assert found.measured == pytest.approx(expected["measured"], abs=0.03, rel=0.06)
        if "unmeasured" in expected:
            assert found.unmeasured == pytest.approx(expected["unmeasured"], abs=0.03, rel=0.06)


@pytest.mark.parametrize("name", [n for n, (m, p) in variants().items() if METHODS[m].with_preset(p).kind == "sampler"])
def test_what_is_called_a_sampler_samples(name: str) -> None:
    for family, row in KNOWN[name].items():
        if "refused" in row:
            continue
        assert row["bias"] < 0.15, family
        assert 0.85 < row["measured"] < 1.15, family
        assert 0.85 < row.get("unmeasured", 1.0) < 1.15, family
        assert 0.92 < row["coverage"] < 0.98, family


@pytest.mark.parametrize("name", [n for n in METHODS if n in variants()])
def test_the_bias_beside_a_methods_name_is_that_of_the_table(name: str) -> None:
    row = KNOWN[name][HEADLINE]
    point = METHODS[name].with_preset(METHODS[name].default_preset(2)).kind == "point"
    told = (row["bias"],) if point else (row["bias"], row["measured"], row["unmeasured"])
    assert METHODS[name].bias == pytest.approx(told, abs=0.02)


def test_the_page_shows_the_table() -> None:
    from tests.conftest import ROOT

    assert (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8") == page(KNOWN)
