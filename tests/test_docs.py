"""What the documents say is true: their code runs, their links lead somewhere, the generated page is up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from medrecon.iterate import run
from medrecon.linop.fourier import Fourier
from medrecon.linop.laws import adjoint_error, random
from medrecon.solvers.krylov import cg
from medrecon.solvers.likelihood import Gaussian

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def example(number: int) -> dict[str, Any]:
    """The names that the n-th Python block of docs/extending.md defines."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(blocks[number], names)
    return names


def test_the_operator_of_the_guide_obeys_its_adjoint() -> None:
    assert adjoint_error(example(0)["Shift"]((7, 5), 2), torch.complex128) < 1e-12


def test_the_method_of_the_guide_reaches_the_least_squares_image() -> None:
    A = Fourier((6, 5)) @ example(0)["Shift"]((6, 5), 1)
    likelihood = Gaussian(A, random((6, 5), torch.complex128, "data"))
    start = torch.zeros(6, 5, dtype=torch.complex128)
    found = run(example(1)["landweber"](likelihood, start), limit=100)
    torch.testing.assert_close(found.x, run(cg(A.normal, likelihood.back), limit=30).x, atol=1e-6, rtol=1e-6)


def test_the_table_of_methods_is_up_to_date() -> None:
    from medrecon.recon.catalogue import catalogue, markdown_page
    from medrecon.recon.recipes import METHODS

    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    assert page.rstrip() == markdown_page(catalogue(METHODS)).rstrip(), "run: medrecon methods --markdown > docs/methods.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:docs|tests|scripts|data|medrecon|benchmarks)/[\w./]+\.\w+)`", page.read_text("utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_commands_in_the_readme_have_their_flags() -> None:
    """Every `medrecon` line of the README is parsed, none is run."""
    import shlex

    from medrecon.cli.main import app

    lines = re.findall(r"^medrecon (.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert len(lines) > 5
    import typer.main

    group = typer.main.get_command(app)
    for line in lines:
        name, *arguments = shlex.split(line)
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, arguments)


def test_the_versions_that_scripts_install_are_pinned() -> None:
    assert re.fullmatch(r"torch==[\d.]+\n", (ROOT / "constraints.txt").read_text("utf-8"))
