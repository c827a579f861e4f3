"""Which views are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medrecon.errors import BadInput
from medrecon.physics.ct import FanBeam2D, ParallelBeam2D, VectorGeometry, even_angles
from medrecon.physics.ct.sampling import golden, interlaced, limited, random, sparse

PARALLEL = ParallelBeam2D(angles=even_angles(180), n_bins=4, bin_spacing=1.0)
FAN = FanBeam2D(angles=even_angles(360, 2 * math.pi), n_bins=4, bin_spacing=1.0, dso=50.0, dsd=80.0)


def test_sparse_views_are_even() -> None:
    np.testing.assert_array_equal(sparse(PARALLEL, 60), np.arange(0, 180, 3))
    for n in (1, 7, 41, 180):
        views = sparse(PARALLEL, n)
        assert len(set(views)) == n
        assert views[0] == 0
        gaps = np.diff(np.append(views, 180))
        assert np.ptp(gaps) <= 1


def test_a_limited_arc_begins_where_it_is_told_and_wraps() -> None:
    np.testing.assert_array_equal(limited(PARALLEL, math.radians(90)), np.arange(90))
    np.testing.assert_array_equal(limited(PARALLEL, math.radians(20), math.radians(170)), [*range(10), *range(170, 180)])
    np.testing.assert_array_equal(limited(FAN, math.radians(10), math.radians(-5)), [*range(5), *range(355, 360)])
    assert len(limited(FAN, 2 * math.pi)) == 360


def test_random_views_are_those_of_their_seed() -> None:
    first = random(PARALLEL, 30, seed=5)
    np.testing.assert_array_equal(first, random(PARALLEL, 30, seed=5))
    assert len(set(first)) == 30
    assert (np.diff(first) > 0).all()
    assert set(first) != set(random(PARALLEL, 30, seed=6))
    counts = np.bincount(np.concatenate([random(PARALLEL, 18, seed=s) for s in range(400)]), minlength=180)
    assert abs(counts - 40).max() < 30


def test_golden_views_are_nearly_even_at_any_number() -> None:
    views = golden(PARALLEL, 180)
    assert sorted(views) == list(range(180))
    np.testing.assert_array_equal(views[:4], [0, 111, 42, 154])
    for n in (5, 8, 21):
        gaps = np.diff(np.append(np.sort(views[:n]), views[:n].min() + 180))
        assert gaps.max() / gaps.min() < 3.5
    np.testing.assert_array_equal(golden(FAN, 3), [0, 222, 85])


def test_interlaced_frames_share_all_views() -> None:
    frames = interlaced(PARALLEL, 7)
    assert len(frames) == 7
    assert sorted(np.concatenate(frames)) == list(range(180))
    assert all((np.diff(frame) == 7).all() for frame in frames)


def test_subsets_are_of_the_geometry() -> None:
    views = golden(FAN, 9)
    np.testing.assert_array_equal(FAN.subset(views).vectors(), FAN.vectors()[views])


def test_impossible_subsets_are_refused() -> None:
    for n in (0, 181, 2.0, True):
        for choose in (sparse, random, golden, interlaced):
            with pytest.raises(BadInput, match="180"):
                choose(PARALLEL, n)  # type: ignore[arg-type]
    for arc in (0.0, -1.0, 90.0, math.nan):
        with pytest.raises(BadInput, match="rad"):
            limited(PARALLEL, arc)
    with pytest.raises(BadInput, match="no view"):
        limited(PARALLEL, 0.001, 0.005)
    vectors = VectorGeometry(kind_of="fan2d", rows_of_vectors=FAN.vectors(), n_bins=4)
    assert len(sparse(vectors, 10)) == 10
    with pytest.raises(BadInput, match="index"):
        golden(vectors, 10)
