"""The table of methods: no dead setting, no unknown name, and presets that are what they say."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from medrecon.errors import BadInput
from medrecon.recon.catalogue import PARTS, PLUGINS, catalogue, markdown_page
from medrecon.recon.recipe import Recipe
from medrecon.recon.recipes import METHODS, recipe
from medrecon.recon.solve import resolved

DRIVER = {"steps", "average"} | PLUGINS
READY = {
    f"{name} {preset or ''}".strip(): found.with_preset(preset) for name, found in METHODS.items() for preset in found.presets or [None]
}


def parts(ready: Recipe) -> list[object]:
    return [part for part in (ready.iteration, ready.consistency, ready.sampler) if part is not None]


@pytest.mark.parametrize("ready", READY.values(), ids=READY.keys())
def test_every_setting_reaches_a_function(ready: Recipe) -> None:
    reached = {name for part in parts(ready) for name in ready.settings_for(part)}  # type: ignore[arg-type]
    assert set(ready.settings) - reached <= DRIVER
    assert "steps" in ready.settings


@pytest.mark.parametrize("ready", READY.values(), ids=READY.keys())
def test_every_default_is_one_that_its_function_can_take(ready: Recipe) -> None:
    for part in parts(ready):
        given = ready.settings_for(part)  # type: ignore[arg-type]
        for name, parameter in inspect.signature(part).parameters.items():  # type: ignore[arg-type]
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                assert name in given


@pytest.mark.parametrize("name", METHODS)
def test_a_preset_names_only_settings_and_parts_that_exist(name: str) -> None:
    found = METHODS[name]
    assert set(found.parts) <= set(found.presets)
    ready = [found.with_preset(preset) for preset in found.presets or [None]]
    assert set(found.settings) <= {setting for one in ready for setting in one.settings}, "a setting that no preset takes"
    for preset, values in found.presets.items():
        assert set(values) <= set(found.with_preset(preset).settings), "a preset sets what has no effect in it"
        assert set(found.parts.get(preset, {})) <= PARTS


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_pair_or_an_iteration_with_a_reference(name: str) -> None:
    found = METHODS[name]
    assert (found.iteration is None) == (found.consistency is not None and found.sampler is not None)
    assert found.reference or name == "zero_filled"
    assert found.good_for, "nobody would know when to use it"
    assert found.kind in ("classical", "sampler", "biased", "point")
    assert set(found.needs) <= {"prior", "noise", "linear", "spectrum", "jacobian", "volume", "series"}


def test_a_setting_without_effect_in_a_preset_is_refused() -> None:
    for preset, name in (("mmse", "gamma"), ("sample", "gamma"), ("ode", "eta"), ("fast", "gamma"), ("paper", "cg_tolerance")):
        with pytest.raises(BadInput, match=f"no setting '{name}'"):
            resolved("dds", preset, 1, None, {name: 0.5})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cg_step": 3}, "did you mean 'cg_steps'"),
        ({"cg_steps": 2.5}, "expected a whole number"),
        ({"cg_steps": True}, "expected a whole number"),
        ({"cg_tolerance": "small"}, "expected a number"),
        ({"steps": "many"}, "expected a whole number"),
        ({"steps": 0}, "expected at least 1"),
        ({"average": 0}, "expected at least 1"),
    ],
)
def test_a_wrong_setting_is_refused_in_the_users_terms(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolved("dds", None, 1, None, settings)


def test_numbers_of_any_kind_are_taken() -> None:
    ready, _ = resolved("dds", None, 1, None, {"cg_steps": np.int64(4), "cg_tolerance": 1, "eta": np.float32(1)})
    assert ready.settings["cg_steps"] == 4
    resolved("sense", None, 1, None, {"weight": torch.tensor(0.1)})
    resolved("l1_wavelet", None, 1, None, {"weight": None})
    resolved("l1_wavelet", None, 1, None, {"weight": 0.1, "wavelet": "db4"})
    with pytest.raises(BadInput, match="expected a text"):
        resolved("l1_wavelet", None, 1, None, {"wavelet": 4})


def test_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean 'dds'"):
        recipe("ddss")
    with pytest.raises(BadInput, match="did you mean 'sample'"):
        METHODS["dds"].with_preset("samples")
    with pytest.raises(BadInput, match="there are none"):
        METHODS["tv"].with_preset("fast")


def test_several_samples_take_the_preset_for_uncertainty() -> None:
    assert resolved("dds", None, 1, None, {})[1] == "mmse"
    assert resolved("dds", None, 2, None, {})[1] == "sample"
    assert resolved("tv", None, 1, None, {})[1] is None


def test_the_factor_of_the_spread_counts_the_averaged_draws() -> None:
    assert resolved("dds", "mmse", 8, None, {})[0].spread == pytest.approx(2**0.5 * 2)
    assert resolved("dds", "mmse", 8, None, {"average": 1})[0].spread == pytest.approx(2**0.5)
    assert resolved("dds", "sample", 8, None, {})[0].spread == 1
    assert resolved("dds", "sample", 8, None, {"eta": 0.5})[0].spread is None
    assert resolved("dds", "sample", 8, None, {"eta": 1})[0].spread == 1
    assert resolved("dds", "paper", 8, None, {})[0].spread is None


def test_the_table_shows_every_setting_with_its_value_in_each_preset() -> None:
    shown = catalogue(METHODS)["dds"]
    assert shown["presets"]["paper"]["gamma"] == 1.0
    assert shown["presets"]["paper"]["eta"] == 0.85
    assert "gamma" not in shown["presets"]["mmse"]
    assert "eta" not in shown["presets"]["ode"]
    assert shown["presets"]["sample"]["consistency"] == "Perturbed(variance=seen_error)"


def test_the_table_is_the_same_in_every_process() -> None:
    assert " at 0x" not in markdown_page(catalogue(METHODS))
