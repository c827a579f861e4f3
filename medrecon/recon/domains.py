"""Which prior suits a scan, and which does not."""

from __future__ import annotations

from medrecon.errors import NotSupported
from medrecon.physics.scan import Scan
from medrecon.prior import store
from medrecon.prior.denoiser import Prior

AUTO = {"mri": ("brain", "mr", "generic"), "ct": ("ct", "generic"), "ultrasound": ("ultrasound", "generic")}
"""Where "auto" looks for each modality, the nearest first: the first prior at hand that knows the body part."""

HEAD = ("BRAIN", "HEAD", "SKULL")
BODY_PARTS = {
    "brain": HEAD,
    "mr": (*HEAD, "HEART", "CARDIAC", "LIVER", "NECK", "CSPINE"),
    "ct": (*HEAD, "CHEST", "LUNG", "THORAX", "ABDOMEN", "PELVIS", "LIVER", "KIDNEY", "COLON", "CHESTABDOMEN", "CHESTABDPELVIS"),
    "ultrasound": ("MUSCLE", "LEG", "ARM", "FETUS", *HEAD),
}
"""What scans call the body parts that a prior knows; others are called like the prior's domain."""

MODALITIES = {"brain": "mri", "mr": "mri", "ct": "ct", "ultrasound": "ultrasound"}
"""The modality of what a prior has seen, by domain; those of other domains are believed to fit."""


def automatic(scan: Scan) -> tuple[str, str]:
    """The name of the prior that "auto" means for this scan, and a sentence that says why."""
    field = "complex" if scan.modality == "mri" else "real"
    found = {name: facts for name, facts in store.available().items() if facts.get("field") == field}
    at_hand = {name: facts.get("domain", name) for name, facts in found.items()}
    names = [name for name in AUTO.get(scan.modality, ()) if name in at_hand]
    if not names:
        raise NotSupported(f"no prior is shipped for {scan.modality} yet: give one (--prior FILE)")
    part = _part(scan)
    # None knows it: the last has seen the most, and the warning of a foreign body part follows.
    name = next((n for n in names if _knows(at_hand[n], part)), names[-1])
    kind = f"{store.label(found[name])} prior".strip()
    return name, f"{kind} {name!r} chosen for this {scan.modality} scan ({part or 'body part not stated'}); at hand: {', '.join(names)}"


def foreign(prior: Prior, name: str, scan: Scan) -> list[str]:
    """A warning where the scan says that it shows another body part, or is of another modality, than the prior has seen."""
    domain, part = prior.domain_name, _part(scan)
    advice = "expect invented detail; use l1_wavelet or tv instead"
    if MODALITIES.get(domain, scan.modality) != scan.modality:
        return [f"prior {name!r} has seen {domain} images, this scan is {scan.modality}: {advice}"]
    if _knows(domain, part):
        return []
    return [f"prior {name!r} has seen {domain} images, the scan says {part}: {advice}"]


def _part(scan: Scan) -> str:
    """What the scan says that it shows, in DICOM's capitals; empty where it does not."""
    return str(scan.study.get("BodyPartExamined", "")).strip().upper()


def _knows(domain: str, part: str) -> bool:
    return domain in ("any", "generic") or not part or part in BODY_PARTS.get(domain, (domain.upper(),))
