"""The floors: an import only points down, folders of one floor do not import each other, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from medrecon.physics.ct.project import IMPLEMENTATIONS

PACKAGE = Path(__file__).resolve().parent.parent / "medrecon"

FLOORS = (
    ("errors", "tensors", "volume", "iterate", "files", "compute"),
    ("linop",),
    ("solvers",),
    ("physics", "prior"),
    ("io", "consistency", "sample"),
    ("evaluate", "trust"),
    ("recon",),
    ("study",),
    ("cli",),
)
"""From the ground up. The modules of the ground floor may import each other; folders of one floor may not."""

FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}

HEAVY = ("pydicom", "nibabel", "h5py", "ismrmrd", "matplotlib", "sigpy", "skimage", "scipy", "pooch", "nilearn", "safetensors")

KERNELS = {module for module, *_ in IMPLEMENTATIONS.values()} | {"joseph3d_kernels", "triton_kernels", "backproject_cpu"}
"""Modules that are loaded when the first of their kernels runs: they may need its compiler."""

FILES = sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    """The folder or top-level module of a file: medrecon/io/nifti.py -> io."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, at run time at the top of the file) of every import, also inside functions."""
    tree = ast.parse(path.read_text("utf-8"))
    found: list[tuple[str, int, bool]] = []

    def visit(node: ast.AST, top: bool, typing: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno, top and not for_types) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}:{child.lineno}: relative import; write it out"
                names = [f"{child.module}.{alias.name}" for alias in child.names] if child.module == "medrecon" else [str(child.module)]
                found.extend((name, child.lineno, top and not for_types) for name in names)
            else:
                visit(child, top and not inside, for_types)

    visit(tree, True, False)
    return found


@pytest.mark.parametrize(
    "path", [f for f in FILES if f.parent != PACKAGE or f.name != "__init__.py"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_an_import_only_points_down(path: Path) -> None:
    here = place(path)
    for module, line, _ in imports(path):
        if not module.startswith("medrecon."):
            continue
        there = module.split(".")[1]
        # The package itself holds only the version and lazy names; the command line may ask it.
        if there == "__version__":
            continue
        assert there in FLOOR_OF, f"{path}:{line} imports medrecon.{there}, which has no floor: add it to FLOORS"
        if there == here:
            continue
        ground = FLOOR_OF[here] == FLOOR_OF[there] == 0
        assert ground or FLOOR_OF[there] < FLOOR_OF[here], f"{path}:{line}: {here} imports {there}, which is not below it"


def test_every_folder_has_a_floor() -> None:
    places = {place(path) for path in FILES} - {"__init__"}
    assert places <= set(FLOOR_OF), f"without a floor: {sorted(places - set(FLOOR_OF))}"


@pytest.mark.parametrize("path", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_format_libraries_are_imported_where_they_are_used(path: Path) -> None:
    heavy = [(module, line) for module, line, at_import in imports(path) if at_import and module.split(".")[0] in HEAVY]
    assert not heavy, f"{path}: imported at the top, so paid by everybody: {heavy}"


def test_importing_the_whole_package_costs_no_format_library() -> None:
    plain = [path for path in FILES if path.stem not in KERNELS]
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in plain]
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    # torch itself may bring some along; only what we add counts.
    alone = "import sys, torch, typer, rich\n" + f"print([m for m in {HEAVY!r} if m in sys.modules])"
    ours, torchs = (ast.literal_eval(_python(text).splitlines()[-1]) for text in (code, alone))
    assert set(ours) <= set(torchs)


def test_importing_medrecon_and_its_help_do_not_wait_for_torch() -> None:
    code = "import sys, medrecon, medrecon.cli.main as m\nm.run(['recon', '--help'])\nprint('torch' in sys.modules)"
    assert _python(code).splitlines()[-1] == "False"


PUBLIC = ("read write Volume", "reconstruct", "solve", "prior.load", "physics.mri.fastmri_mask physics.mri.sense physics.mri.espirit")


@pytest.mark.parametrize("names", PUBLIC)
def test_public_names_are_there_after_a_plain_import(names: str) -> None:
    """Each line in a process of its own: a name must not lean on what another has loaded."""
    _python("import medrecon\n" + "\n".join(f"assert callable(medrecon.{name})" for name in names.split()))


def test_the_package_knows_its_version_and_no_nonsense() -> None:
    code = """
import medrecon
assert medrecon.__version__[0].isdigit() and set(medrecon.__all__) <= set(dir(medrecon))
try:
    medrecon.nonsense
except AttributeError as error:
    assert "nonsense" in str(error)
else:
    raise AssertionError
"""
    _python(code)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
