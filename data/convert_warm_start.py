"""Weights of the prototype's training script as weights that `medrecon train --init` takes.

python data/convert_warm_start.py ct_real.safetensors ct_warm.safetensors --modality ct
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from medrecon.prior import store
from medrecon.prior.network import UNet
from medrecon.study.modalities import units_of

NAMES = {
    "mlp": "level",
    "dn": "halve",
    "us": "enlarge",
    "upb": "up",
    "c1": "first",
    "c2": "second",
    "f": "film",
    "freq": "frequencies",
}
"""Parts of a name there, and here."""


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of `UNet`; its frequencies include the factor 2 that the prototype applies later."""
    found = {re.sub(r"[^.]+", lambda part: NAMES.get(part[0], part[0]), name): weight.float() for name, weight in weights.items()}
    return {**found, "frequencies": 2 * found["frequencies"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--modality", default="mr", help="mr or ct: what its images were")
    options = parser.parse_args()
    with safe_open(options.source, framework="pt") as file:
        notes = {key: json.loads(value) for key, value in file.metadata().items()}
        weights = renamed({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    made = notes["cfg"]
    network = UNet(made["ch"], made["widths"], made["blocks"], made["emb"])
    network.load_state_dict(weights)
    facts = {
        "network": network.settings,
        "field": "complex" if made["ch"] == 2 else "real",
        "domain": options.modality,
        "units": units_of(options.modality).facts(),
        "sigma_data": notes["sigma_data"],
        "sigma_range": (0.002, 20.0),
        "error_curve": notes["error_curve_train"],
        "card": {"history": f"{notes['iterations']} iterations of the prototype's training script"},
    }
    store.save(options.target, network.state_dict(), facts)


if __name__ == "__main__":
    main()
