"""Folders of diffusers: schedulers beside published tables, what is refused, and the real network where it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medrecon.errors import BadInput, MissingExtra, NotSupported
from medrecon.linop.laws import random
from medrecon.prior import GaussianMixture, from_diffusers, load
from medrecon.prior.adapters import FromModule
from medrecon.prior.diffusers_folder import Unwrapped

SHAPE = (8, 6)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}


class UNet2DModel(nn.Module):
    """Stands in for diffusers' class: weights of a Gaussian mixture (network's units), its answer to noise at DDPM's linear steps."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        defaults = {"time_embedding_type": "positional", "in_channels": 1, "block_out_channels": (8, 16)}
        self.config = SimpleNamespace(**{**defaults, **config})
        self.means = nn.Parameter(torch.empty(2, self.config.in_channels, *SHAPE))
        self.seen: list[tuple[Tensor, Tensor]] = []

    from_config = classmethod(lambda cls, config: cls(config))  # type: ignore[var-annotated]

    def forward(self, image: Tensor, time: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        assert not return_dict
        self.seen.append((image, time))
        total = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        log = np.log((1 - total) / total) / 2
        sigma = torch.from_numpy(np.exp(np.interp(time.numpy(), np.arange(1000), log))).float().reshape(-1, 1, 1, 1)
        u = image * torch.sqrt(1 + sigma**2)
        return ((u - GaussianMixture([0.5, 0.5], self.means, [0.2, 0.4]).denoise(u, sigma)) / sigma,)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("diffusers")
    package.UNet2DModel = UNet2DModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", package)


def means(channels: int) -> Tensor:
    return random((2, channels, *SHAPE), torch.float32, "means")


def folder(path: Path, scheduler: dict[str, Any] | None = None, *, pipeline: bool = False, **config: Any) -> Path:
    model, noise = (path / "unet", path / "scheduler") if pipeline else (path, path)
    model.mkdir(parents=True, exist_ok=True)
    noise.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
    if scheduler is None:
        scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", **BETAS}
    (noise / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file({"means": means(config.get("in_channels", 1))}, model / "diffusion_pytorch_model.safetensors")
    return path


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.usefixtures("stand_in")
def test_a_folder_is_a_prior_of_images_of_zero_to_one(tmp_path: Path, pipeline: bool) -> None:
    prior = load(folder(tmp_path / "knees", pipeline=pipeline))
    truth = GaussianMixture([0.5, 0.5], (means(1)[:, 0] + 1) / 2, [0.05, 0.1])
    noisy, sigma = random((3, *SHAPE), torch.float32, "noisy"), torch.tensor([0.1, 0.5, 2.0]).reshape(3, 1, 1)
    torch.testing.assert_close(prior.denoise(noisy, sigma), truth.denoise(noisy, sigma), rtol=0, atol=1e-4)
    assert (prior.field, prior.domain_name) == ("real", "knees")
    assert prior.sigma_range == pytest.approx((0.0100005 / 2, 157.407 / 2), rel=1e-4)
    assert not any(p.requires_grad for p in prior.parameters())


@pytest.mark.usefixtures("stand_in")
def test_two_channels_are_complex_images_in_their_own_range(tmp_path: Path) -> None:
    prior = load(folder(tmp_path, in_channels=2))
    truth = GaussianMixture([0.5, 0.5], torch.complex(means(2)[:, 0], means(2)[:, 1]), [0.2, 0.4])
    noisy, sigma = random((3, *SHAPE), torch.complex64, "noisy"), torch.tensor([0.1, 0.5, 2.0]).reshape(3, 1, 1)
    torch.testing.assert_close(prior.denoise(noisy, sigma), truth.denoise(noisy, sigma), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("stand_in")
def test_real_networks_take_the_parts_of_complex_images_in_a_stated_range(tmp_path: Path) -> None:
    prior = from_diffusers(folder(tmp_path), field="complex", gain=1.0, offset=0.0, data_std=0.25)
    truth = GaussianMixture([0.5, 0.5], means(1)[:, 0], [0.2, 0.4])
    noisy, sigma = random((3, *SHAPE), torch.complex64, "noisy"), torch.tensor(0.5)
    expected = torch.complex(truth.denoise(noisy.real, sigma), truth.denoise(noisy.imag, sigma))
    torch.testing.assert_close(prior.denoise(noisy, sigma), expected, rtol=0, atol=1e-4)
    assert prior.data_std == 0.25


def betas(name: str) -> np.ndarray:
    if name == "linear":
        return np.linspace(1e-4, 0.02, 1000)
    if name == "scaled_linear":
        return np.linspace(1e-2, 0.02**0.5, 1000) ** 2
    if name == "sigmoid":
        return 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.02 - 1e-4) + 1e-4
    total = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - total[1:] / total[:-1], 0.999)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.usefixtures("stand_in")
def test_steps_of_every_beta_schedule_have_their_level(tmp_path: Path, name: str) -> None:
    prior = from_diffusers(folder(tmp_path, {"_class_name": "DDIMScheduler", "beta_schedule": name, **BETAS}))
    total = np.cumprod(1 - betas(name))
    for k in (0, 300, 999):
        level = torch.tensor(np.sqrt((1 - total[k]) / total[k]))
        assert float(prior.noising.time(level)) == pytest.approx(k, abs=1e-6)


@pytest.mark.usefixtures("stand_in")
def test_betas_may_be_listed_and_the_last_step_may_be_pure_noise(tmp_path: Path) -> None:
    listed = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "trained_betas": [0.1, 0.2, 0.3]}
    assert from_diffusers(folder(tmp_path, listed), gain=1.0).sigma_range == pytest.approx(((1 / 0.9 - 1) ** 0.5, (1 / 0.504 - 1) ** 0.5))
    pure = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, **BETAS}
    prior = from_diffusers(folder(tmp_path, pure), gain=1.0)
    root = np.sqrt(np.cumprod(1 - betas("scaled_linear")))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert prior.sigma_range == pytest.approx(((root[0] ** -2 - 1) ** 0.5, (root[-2] ** -2 - 1) ** 0.5), rel=1e-8)
    assert float(prior.noising.time(torch.tensor(1e9))) == 998


@pytest.mark.parametrize(
    ("scheduler", "predicts", "sigma", "told"),
    [
        ({"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "v_prediction", **BETAS}, "v", 3.42414, 499),
        ({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear", "prediction_type": "sample", **BETAS}, "clean", 3.42414, 499),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}, "flow", 1.0, 500),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 348.0}, "score", 3.0, 3.0),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_the_scheduler_says_what_is_predicted_and_told(
    tmp_path: Path, scheduler: dict[str, Any], predicts: str, sigma: float, told: float
) -> None:
    prior = from_diffusers(folder(tmp_path, scheduler), gain=1.0, offset=0.0)
    noisy = random((1, *SHAPE), torch.float32, "noisy")
    found = prior.denoise(noisy, torch.tensor(sigma))
    network = next(m for m in prior.modules() if isinstance(m, UNet2DModel))
    seen, time = network.seen[0]
    assert float(time) == pytest.approx(told, rel=1e-4)
    again = FromModule(Unwrapped(network), predicts=predicts, noising=prior.noising, told=lambda _: time)
    torch.testing.assert_close(again.denoise(noisy, torch.tensor(sigma)), found)
    a = float(seen.flatten()[0] / noisy.flatten()[0])
    assert a == pytest.approx({"flow": 0.5, "score": 1.0}.get(predicts, (1 + sigma**2) ** -0.5), rel=1e-4)


@pytest.mark.usefixtures("stand_in")
def test_score_networks_have_images_of_zero_to_one_and_tables_take_whole_steps(tmp_path: Path) -> None:
    prior = from_diffusers(folder(tmp_path, {"_class_name": "ScoreSdeVeScheduler"}))
    assert (prior.gain, prior.offset) == (1.0, 0.0)
    prior = from_diffusers(folder(tmp_path, time_embedding_type="learned"))
    assert prior.told(torch.tensor([3.4])).tolist() == [3]


@pytest.mark.usefixtures("stand_in")
def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "diffusion_pytorch_model.safetensors").unlink()
    (path / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(BadInput, match="pickled weights can run code.*save_pretrained"):
        load(path)
    (path / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(BadInput, match=r"safetensors: no such file"):
        load(path)


DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", **BETAS}


@pytest.mark.parametrize(
    ("scheduler", "config", "error", "words"),
    [
        (DDPM, {"_class_name": "UNet2DConditionModel"}, NotSupported, "only UNet2DModel"),
        (DDPM, {"num_class_embeds": 10}, NotSupported, "class labels"),
        (DDPM, {"in_channels": 3}, NotSupported, "3 channels"),
        ({"_class_name": "ScoreSdeVpScheduler"}, {}, NotSupported, "ScoreSdeVpScheduler"),
        ({**DDPM, "beta_schedule": "laplace"}, {}, NotSupported, "laplace"),
        ({**DDPM, "prediction_type": "epsilom"}, {}, NotSupported, "did you mean 'epsilon'"),
        ({**DDPM, "num_train_timesteps": "many"}, {}, BadInput, "not the numbers"),
        ({**DDPM, "beta_start": -1.0}, {}, BadInput, "noise levels"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_what_cannot_be_read_says_why(tmp_path: Path, scheduler: dict, config: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(folder(tmp_path, scheduler, **config))


@pytest.mark.usefixtures("stand_in")
def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_file({"means": torch.zeros(2, 1, 3, 3)}, folder(tmp_path) / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BadInput, match=r"do not fit config.json"):
        load(tmp_path)


@pytest.mark.usefixtures("stand_in")
def test_missing_and_damaged_json_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "scheduler_config.json").write_text("[1]")
    with pytest.raises(BadInput, match="expected a JSON object"):
        load(path)
    (path / "scheduler_config.json").write_bytes(b"\xff{")
    with pytest.raises(BadInput, match="not readable JSON"):
        load(path)
    (path / "scheduler_config.json").unlink()
    with pytest.raises(BadInput, match=r"no scheduler_config.json"):
        load(path)


def test_without_diffusers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"medrecon\[diffusers\]"):
        load(folder(tmp_path))


BLOCKS = [("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D"), ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")]


@pytest.mark.peer
@pytest.mark.parametrize(("down", "up"), BLOCKS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_real_network_comes_back_from_its_folder(tmp_path: Path, channels: int, down: str, up: str) -> None:
    try:
        from diffusers import DDPMScheduler
        from diffusers import UNet2DModel as Real
    except (ImportError, RuntimeError):
        pytest.skip("diffusers is not installed, or the torchvision that it finds is of another torch")
    torch.manual_seed(0)
    network = Real(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", down),
        up_block_types=(up, "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    network.save_pretrained(tmp_path)
    scheduler = DDPMScheduler()
    scheduler.save_pretrained(tmp_path)
    prior = load(tmp_path)
    dtype = torch.complex64 if channels == 2 else torch.float32
    gain, offset = (1.0, 0.0) if channels == 2 else (2.0, -1.0)
    x = random((2, 15, 16), dtype, "noisy")
    for k in (0, 400, 999):
        total = scheduler.alphas_cumprod[k]
        sigma = ((1 - total) / total).sqrt() / gain
        both = torch.stack([x.real, x.imag], 1) if channels == 2 else x[:, None]
        u = torch.nn.functional.pad(gain * both + offset, (0, 0, 0, 1), mode="reflect")
        with torch.no_grad():
            noise = network(total.sqrt() * u, k).sample
            clean = ((u - gain * sigma * noise)[:, :, :15] - offset) / gain
            expected = torch.complex(clean[:, 0], clean[:, 1]) if channels == 2 else clean[:, 0]
            found = prior.denoise(x, sigma)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(sigma))
