"""The whole trajectory at once: its levels are evaluated as one batch until no state changes any more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from medrecon.errors import BadInput
from medrecon.iterate import Step
from medrecon.prior.denoiser import Estimate, Prior
from medrecon.sample.demands import memoryless
from medrecon.sample.travel import bridge
from medrecon.tensors import Draw, dot, like_batch, norm2, ratio, real_dtype

Pair = tuple[Tensor, Tensor]
"""(sigma, lower) of one step."""
RIDGE = 1e-10
"""Keeps the weights of equal changes finite, relative to the largest change."""


def parallel(
    prior: Prior,
    x: Tensor,
    sigmas: Tensor,
    draw: Draw,
    *,
    churn: float = 1.0,
    window: int = 25,
    history: int = 1,
    tolerance: float = 1e-4,
) -> Iterator[Step]:
    """What `ancestral` with this `churn` and the same noise returns (0: `euler`), as the fixed point U = G(U) of all states.

    Cao et al. 2024 (DeqIR, arXiv:2311.11600, algorithm 1): G makes every step of a window from the present guess of its
    state, all noise kept from the first time. An iteration is one batch of up to `window` evaluations, of which one more
    state is exact each time and is not asked again, so a window is done after `window` iterations at the latest. It stops
    where the trajectory changes by less than `tolerance` of the states' size. `history` iterations are mixed as in the
    paper (Anderson); 1 is Picard's iteration, which here needs fewer turns, because changes are carried through all later
    steps at once, each by the factor that it showed in the turn before: 5 turns instead of 18 for 25 levels.
    For devices that one image cannot fill: more evaluations, fewer in turn. As right as the sampler that it equals.
    """
    memoryless(prior, "parallel")
    if window < 1 or history < 1:
        raise BadInput(f"window = {window}, history = {history}: expected at least 1")
    for levels in _windows(sigmas, window):
        if levels[0][1] > levels[0][0]:
            x = bridge(x, *levels[0], draw)
            yield Step(x, levels[0][1])
            continue
        steps = _Steps(prior, x, levels, draw, churn)
        for states, change in _anderson(steps, x, history, tolerance):
            yield Step(states[-1], change)
        x = states[-1]


def _windows(sigmas: Tensor, length: int) -> Iterator[list[Pair]]:
    """Runs of at most `length` steps down; a step up is a run of its own."""
    pairs: list[Pair] = []
    for sigma, lower in pairwise(sigmas):
        up = bool(lower > sigma)
        if pairs and (up or len(pairs) == length):
            yield pairs
            pairs = []
        pairs.append((sigma, lower))
        if up:
            yield pairs
            pairs = []
    if pairs:
        yield pairs


class _Steps:
    """All steps of a window: (step, *lead, *image) to the same, each with its own noise levels and its own fixed noise."""

    def __init__(self, prior: Prior, x: Tensor, levels: list[Pair], draw: Draw, churn: float) -> None:
        self.prior, self.tapes = prior, [_Tape(draw) for _ in levels]
        self.axes = prior.image_axes
        self.levels = levels
        self.last: tuple[Tensor, Tensor] | None = None
        sigma, lower = (torch.stack(level) for level in zip(*levels, strict=True))
        eta = churn * (1 - (lower / sigma) ** 2).clamp_min(0).sqrt()
        self.sigma, self.lower = self._each(sigma, x), self._each(lower, x)
        self.kept = self._each(lower * (1 - eta**2).clamp_min(0).sqrt(), x)
        self.fresh = torch.stack([(b * e) * draw(x) if b * e > 0 else torch.zeros_like(x) for b, e in zip(lower, eta, strict=True)])
        self.weight = self._each(1 / (prior.data_std**2 + lower**2), x)  # early states are large

    def __len__(self) -> int:
        return len(self.levels)

    def __call__(self, states: Tensor, begin: int) -> Tensor:
        """The states after steps `begin` and later, from guesses of those before, of which the first is exact.

        Each step is made alone, from its guess; what the guess before it was wrong by is then passed on, times a.
        """
        estimate = self._estimate(states, begin)
        alone = estimate.clean + self.kept[begin:] * estimate.noise + self.fresh[begin:]
        carried = self._carried(states, alone, begin)
        self.last = (states[1:], alone[1:])
        found = [alone[0]]
        for guess, after, a in zip(states[1:], alone[1:], carried[1:], strict=True):
            found.append(after + a * (found[-1] - guess))
        return torch.stack(found)

    def _carried(self, states: Tensor, alone: Tensor, begin: int) -> Tensor:
        """a of each step: how far it followed its state since the last turn, at first that of a fixed estimate."""
        if self.last is None:
            return self.kept[begin:] / self.sigma[begin:]
        moved, followed = states - self.last[0], alone - self.last[1]
        return ratio(dot(followed, moved, self.axes), norm2(moved, self.axes)).clamp(0, 1)

    def size(self, a: Tensor, b: Tensor, begin: int) -> Tensor:
        """Re<a, b> over steps and pixels, (*lead, 1, ..., 1) in float64; each step in units of its own states' variance."""
        product = (a.conj() * b).real * self.weight[begin:]
        return product.sum((0, *range(-self.axes, 0)), keepdim=True, dtype=torch.float64)[0]

    def guess(self, x: Tensor) -> Tensor:
        """All states by one look at the first: the image found there with its noise, at every level."""
        first = self.prior.estimate(x, *self.levels[0], self.tapes[0].rewound())
        return first.clean + self.kept * first.noise + self.fresh

    def _estimate(self, states: Tensor, begin: int) -> Estimate:
        tapes = [tape.rewound() for tape in self.tapes[begin:]]
        if self.prior.item_levels:

            def all_tapes(like: Tensor) -> Tensor:
                return torch.stack([tape(item) for tape, item in zip(tapes, like, strict=True)])

            return self.prior.estimate(states, self.sigma[begin:], self.lower[begin:], all_tapes)
        found = [self.prior.estimate(state, *pair, tape) for state, pair, tape in zip(states, self.levels[begin:], tapes, strict=True)]
        return Estimate(torch.stack([e.clean for e in found]), torch.stack([e.noise for e in found]))

    @staticmethod
    def _each(level: Tensor, x: Tensor) -> Tensor:
        return like_batch(level, x.ndim).to(x.device, real_dtype(x.dtype))


class _Tape:
    """A `Draw` that gives the same noise again after `rewound`: a random data step becomes a function of the image."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.noise, self.at = draw, list[Tensor](), 0

    def rewound(self) -> _Tape:
        self.at = 0
        return self

    def __call__(self, like: Tensor) -> Tensor:
        if self.at == len(self.noise):
            self.noise.append(self.draw(like))
        self.at += 1
        return self.noise[self.at - 1]


def _anderson(steps: _Steps, x: Tensor, history: int, tolerance: float) -> Iterator[tuple[Tensor, Tensor]]:
    """(states after all steps, their relative change per image), from the states' first guess to where they stay."""
    states = steps.guess(x)
    done = torch.zeros_like(steps.size(states, states, 0), dtype=torch.bool)
    past: list[tuple[Tensor, Tensor]] = []
    for begin in range(len(steps)):
        # States before `begin` are exact: each came from an exact one.
        before = torch.cat([x.unsqueeze(0), states])[begin:-1]
        mapped = steps(before, begin)
        change = mapped - states[begin:]
        past = [*((s[1:], c[1:]) for s, c in past[-(history - 1) :] if history > 1), (mapped, change)]
        moved = ratio(steps.size(change, change, begin), steps.size(mapped, mapped, begin)).sqrt()
        found = torch.cat([states[:begin], torch.where(done, states[begin:], mapped)])
        done = done | (moved <= tolerance)
        yield found, moved.amax()
        if bool(done.all()):
            return
        mixed = _mixed(past, steps, begin)
        mixed[0] = mapped[0]
        states = torch.cat([states[:begin], torch.where(done, found[begin:], mixed)])


def _mixed(past: list[tuple[Tensor, Tensor]], steps: _Steps, begin: int) -> Tensor:
    """The mean of the mapped states whose weights, of sum 1, make the mean change smallest; for each image its own."""
    changes = [change for _, change in past]
    gram = torch.stack([torch.stack([steps.size(a, b, begin) for b in changes], -1) for a in changes], -2)
    scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True).unsqueeze(-1).clamp_min(1e-300)
    eye = torch.eye(len(past), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram / scale + RIDGE * eye, torch.ones_like(gram[..., :1])).squeeze(-1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(past[0][0].real.dtype)
    return sum((weights[..., k] * mapped for k, (mapped, _) in enumerate(past)), torch.zeros_like(past[-1][0]))
