# %% [markdown]
# # From a folder of DICOM to a prior of your own to a reconstruction
#
# Ten cells. They run as they are, on invented patients, in about a minute; put your own folder into the first one for the real thing.
# As a notebook: `scripts/build_notebooks`, or `jupytext --to ipynb own_prior.py`, or open the script in an editor that knows cells.

# %% 1. Your folder: one sub-folder for each patient, as scanners and PACS export them
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import medrecon

WORK = Path(os.environ.get("MEDRECON_TUTORIAL_FOLDER") or tempfile.mkdtemp(prefix="medrecon-tutorial-"))
DICOM = WORK / "dicom"  # put your own here, as in Path("~/studies").expanduser(), and leave out the next cell
ITERATIONS = int(os.environ.get("MEDRECON_TUTORIAL_ITERATIONS", "150"))  # 20000 for a prior that deserves the name

# %% 2. Without data at hand: five patients of random ellipses, written as DICOM series
from medrecon.physics.phantom import Ellipse, ellipse_image
from medrecon.tensors import generator_for


def patient(number: int, n: int = 96, slices: int = 4) -> medrecon.Volume:
    """An invented head: the skull, the brain, a dozen structures of random place, size and brightness."""
    u = torch.rand(12, 6, generator=generator_for(number, "patient"), dtype=torch.float64)
    images = []
    for z in range(slices):
        parts = [Ellipse(1.0, (0, 0), (0.44, 0.36)), Ellipse(-0.55, (0, 0), (0.41, 0.33))]
        for a, b, y, x, bright, turn in u.tolist():
            centre, axes = (0.4 * y - 0.2, 0.34 * x - 0.17), (0.02 + 0.1 * a, 0.02 + (0.1 - 0.01 * z) * b)
            parts.append(Ellipse(0.8 * bright - 0.2, centre, axes, 3.14 * turn))
        images.append(ellipse_image(tuple(parts), (n, n)).float().clamp(min=0))
    spacing = torch.diag(torch.tensor([-2.2, -2.2, 5.0, 1.0], dtype=torch.float64)).numpy()
    facts = {"PatientID": f"P{number}", "BodyPartExamined": "HEAD"}
    return medrecon.Volume(1000 * torch.stack(images), medrecon.volume.Grid((slices, n, n), spacing), facts=facts)


if not DICOM.exists():
    for number in range(5):
        medrecon.write(patient(number), DICOM / f"patient_{number}")

# %% 3. Look at what you train on: a prior repeats what it has seen, artefacts included
print(medrecon.read(DICOM / "patient_0"))
medrecon.read(DICOM / "patient_0").show()

# %% 4. Train. One patient is kept for the error curve, one is never seen at all (medrecon train dicom -o own.safetensors ...)
from medrecon.prior import store
from medrecon.study.train import TrainingRun, train_from_files

shipped = store.WEIGHTS / "brain.safetensors"
run = TrainingRun(
    [DICOM],
    WORK / "own.safetensors",
    iterations=ITERATIONS,
    batch=8,
    patch=48,
    learning_rate=3e-4,
    init=shipped if shipped.exists() else None,  # with little data of your own, start from what is shipped
    validate=["patient_3"],
    exclude=["patient_4"],
    domain="brain",
    report_every=0,
    licence="mine",
)
weights = run.out if run.out.exists() else train_from_files(run)  # interrupted? run the cell again: it goes on

# %% 5. Its card: from whom, by which command, with which error at every noise level
print(store.card(weights))

# %% 6. Check it on the patient that it has never seen (medrecon priors own.safetensors --check dicom/patient_4 -o check)
from medrecon.study.check import check, in_prior_units

own = store.load(weights)
images, how = in_prior_units(own, DICOM / "patient_4")
checked = check(own, "own", images[1:2], how)
print(how, *(f"sigma {f.sigma:g}: {f.prior:.1f} dB, TV {f.tv:.1f} dB, SURE {f.sure:.3f} (1)" for f in checked.levels), sep="\n")
print(*checked.warnings, sep="\n")

# %% 7. A scan of that patient: here simulated, 8 coils, every fourth line; yours: medrecon.read("scan.h5")
from medrecon.physics.mri import fastmri_mask, simulate, undersample

truth = medrecon.read(DICOM / "patient_4")
full = simulate(truth, coils=8, snr_db=25, seed=1)
scan = undersample(full, fastmri_mask(full.matrix[0], 4, center_fraction=0.2, seed="tutorial"))
scan = replace(scan, study={"BodyPartExamined": "HEAD"})

# %% 8. Reconstruct, without a prior and with yours (medrecon recon scan.h5 -o image --prior own.safetensors)
plain = medrecon.reconstruct(scan, "l1_wavelet")
result = medrecon.reconstruct(scan, "dds", prior=weights, steps=12, average=1)
print(*(f"{key}: {result.log[key]}" for key in ("method", "prior", "noise_std", "chi2", "warnings")), sep="\n")

# %% 9. Compare with the truth, which only a simulation has
from medrecon.evaluate.fastmri import official

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
psnr = {}
for axis, (name, image) in zip(
    axes, (("truth", truth.image), ("l1_wavelet", plain.volume.image), ("own prior", result.volume.image)), strict=True
):
    shown = image.abs()
    psnr[name] = float("inf") if name == "truth" else official(truth.image, shown).psnr
    axis.imshow(shown[1].numpy(), cmap="gray", vmin=0, vmax=float(truth.image.max()))
    axis.set_title(f"{name}" + ("" if name == "truth" else f", {psnr[name]:.1f} dB"))
    axis.set_axis_off()

# %% 10. Keep the image where it belongs: a DICOM series in the patient's study, and a report
medrecon.write(result.volume, WORK / "result", like=DICOM / "patient_4", force=True)
result.report(WORK / "report.html", reference=truth, force=True)
print(f"look into {WORK}")
