"""A scan larger than memory allows at once: 256 slices, 16 coils, 320 x 320, never in a file and never whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

RUN = """
import json, resource, sys, torch
from dataclasses import dataclass, replace
from medrecon.compute import memory_budget
from medrecon.physics.mri.encoding import item_bytes
from medrecon.recon.pipeline import reconstruct
from medrecon.volume import Grid
from tests.physics.mri.scans import lines, scan

@dataclass(frozen=True)
class Repeated:
    '''Many slices from a few, each as bright as its number says.'''
    few: torch.Tensor
    n_slices: int

    @property
    def shape(self):
        return (self.n_slices, *self.few.shape[1:])

    def __getitem__(self, index):
        return torch.stack([self.few[z % len(self.few)] * (1 + z / 256) for z in range(*index.indices(self.n_slices))])

slices, size, steps = map(int, sys.argv[1:])
few = scan((4, size, size), coils=16, mask=lines(size, every=4, centre=24), noise_std=0.02)
few = replace(few, grid=Grid.unplaced((slices, size, size)), kspace=Repeated(few.kspace[0:4], slices))
told = []
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
result = reconstruct(few, "sense", steps=steps, progress=lambda *step: told.append(step))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
each = item_bytes((size, size), 16, 1)
image = result.volume.image
print(json.dumps({
    "grown": peak - before, "each": each, "budget": memory_budget(torch.device("cpu")),
    "batches": result.log["batches"], "shape": list(image.shape),
    "ratio": float((image[-4:].abs().sum() / image[:4].abs().sum()).item()), "told": told, "seconds": result.log["seconds"],
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scan_of_256_slices_streams_within_two_gibibytes_of_one_batch() -> None:
    done = subprocess.run([sys.executable, "-c", RUN, "256", "320", "8"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["shape"] == [256, 320, 320]
    per_batch = max(1, min(256, found["budget"] // found["each"]))
    assert found["grown"] < per_batch * found["each"] + (2 << 30)
    assert abs(found["batches"] - -(-256 // per_batch)) <= 1 + found["batches"] // 10  # free memory may have changed meanwhile
    assert found["ratio"] == pytest.approx(sum(1 + z / 256 for z in range(252, 256)) / sum(1 + z / 256 for z in range(4)), rel=0.02)
    for phase in ("reading", "sense"):
        steps = [done for done, _, text in found["told"] if text == phase]
        assert steps == sorted(steps)
        assert len(steps) >= (256 if phase == "reading" else found["batches"])
    assert found["told"][-1][0] == found["told"][-1][1]
