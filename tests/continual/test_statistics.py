"""Intervals and paired tests against scipy, against published examples, and against all sign changes by hand."""

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pvision.continual.statistics import mean_interval, paired_comparison
from pvision.errors import ConfigError, MissingExtraError

# Student 1908, hours of extra sleep of ten patients under two drugs. R's documentation (`?sleep`) prints, for the
# paired t test, t = -4.0621, p = 0.002833 and the 95 % interval -2.4598858 .. -0.7001142 of the mean difference -1.58.
SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Hollander & Wolfe 1973, p. 29: depression scale before and after therapy. R's `?wilcox.test` prints V = 40 and the
# one-sided p = 0.01953, so two-sided 0.03906; the smaller rank sum is 45 - 40.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]

runs = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_students_sleep():
    result = paired_comparison(SLEEP_A, SLEEP_B)
    assert result.difference.mean == pytest.approx(-1.58)
    assert result.difference.low == pytest.approx(-2.4598858, abs=5e-8)
    assert result.difference.high == pytest.approx(-0.7001142, abs=5e-8)
    assert result.t == pytest.approx(-4.0621, abs=5e-5)
    assert result.t_p == pytest.approx(0.002833, abs=5e-7)


def test_hollander_and_wolfes_depression_scale():
    result = paired_comparison(BEFORE, AFTER)
    assert result.wilcoxon == 5
    assert result.wilcoxon_p == pytest.approx(0.0390625, abs=1e-12)


@given(values=runs, confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_intervals_are_scipys(values, confidence):
    interval = mean_interval(values, confidence)
    assert interval.n == len(values)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.std == pytest.approx(np.std(values, ddof=1))
    if interval.std > 1e-9:
        low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


@given(seed=st.integers(0, 1000), n=st.integers(2, 30))
def test_without_ties_both_tests_are_scipys(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.2, 1, n), rng.normal(0, 1, n)
    result = paired_comparison(a, b)
    student, wilcoxon = stats.ttest_rel(a, b), stats.wilcoxon(a, b, method="exact")
    assert (result.t, result.t_p) == pytest.approx((student.statistic, student.pvalue), rel=1e-8)
    assert (result.wilcoxon, result.wilcoxon_p) == pytest.approx((wilcoxon.statistic, wilcoxon.pvalue), rel=1e-9)


@given(differences=st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_with_ties_wilcoxon_is_exact_too(differences):
    """All 2^n signs by hand; pairs without a difference are left out."""
    different = [d for d in differences if d != 0]
    ranks = stats.rankdata(np.abs(different)) if different else []
    total = sum(ranks)
    smaller = min(sum(r for r, d in zip(ranks, different, strict=True) if d > 0), total)
    smaller = min(smaller, total - smaller)
    signs = list(itertools.product([0, 1], repeat=len(different)))
    low = sum(min(s := sum(r * x for r, x in zip(ranks, sign, strict=True)), total - s) <= smaller for sign in signs)
    result = paired_comparison([d / 100 + 0.5 for d in differences], [0.5] * len(differences))
    assert result.wilcoxon == pytest.approx(smaller)
    assert result.wilcoxon_p == pytest.approx(low / len(signs), abs=1e-12)


def test_wilcoxon_stays_exact_for_many_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 300), rng.normal(0, 1, 300)
    exact, normal = (stats.wilcoxon(a, b, method=method).pvalue for method in ("exact", "asymptotic"))
    assert paired_comparison(a, b).wilcoxon_p == pytest.approx(exact, rel=1e-9)
    assert normal != pytest.approx(exact, rel=1e-9)


@given(a=runs, data=st.data())
def test_exchanging_the_methods_changes_signs_only(a, data):
    b = data.draw(st.lists(st.floats(0, 1), min_size=len(a), max_size=len(a)))
    there, back = paired_comparison(a, b), paired_comparison(b, a)
    assert there.difference.mean == -back.difference.mean
    assert there.difference.low == pytest.approx(-back.difference.high, abs=1e-12)
    assert (there.wilcoxon, there.wilcoxon_p) == (back.wilcoxon, back.wilcoxon_p)
    np.testing.assert_allclose([there.t, there.t_p], [-back.t, back.t_p])


def test_pairing_finds_what_two_intervals_do_not():
    """The negative control of pairing: seeds differ more than methods do."""
    seeds = np.array([0.50, 0.60, 0.70, 0.80, 0.90])
    better = seeds + np.array([0.010, 0.012, 0.009, 0.011, 0.010])
    assert paired_comparison(better, seeds).t_p < 1e-3
    assert mean_interval(better).low < mean_interval(seeds).mean
    assert paired_comparison(better, seeds[::-1]).t_p > 0.5  # pairs torn apart


def test_one_run_says_nothing_about_the_spread():
    interval = mean_interval([0.7])
    assert (interval.mean, interval.n) == (0.7, 1)
    assert all(math.isnan(value) for value in (interval.low, interval.high, interval.std))
    result = paired_comparison([0.7], [0.6])
    assert result.difference.mean == pytest.approx(0.1)
    assert math.isnan(result.difference.low)
    assert math.isnan(result.t_p)
    assert result.wilcoxon_p == 1.0


def test_equal_differences_leave_no_spread_to_judge_by():
    result = paired_comparison([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])  # each 0.1, but for the noise of float64
    assert math.isnan(result.t)
    assert math.isnan(result.t_p)
    assert result.wilcoxon_p == 0.25
    same = paired_comparison([0.5, 0.3 - 0.1], [0.5, 0.2])
    assert (same.difference.mean, same.wilcoxon, same.wilcoxon_p) == (0, 0, 1)


def test_a_run_without_a_value_is_not_left_out():
    nan = float("nan")
    assert all(math.isnan(value) for value in mean_interval([0.5, nan, 0.7])[:4])
    result = paired_comparison([0.5, nan, 0.7], [0.4, 0.5, 0.5])
    assert all(math.isnan(value) for value in (result.difference.mean, result.t, result.t_p, result.wilcoxon_p))


def test_wrong_runs_are_refused():
    with pytest.raises(ConfigError, match="a and b must hold the same runs, but 3 and 2 values came"):
        paired_comparison([1, 2, 3], [1, 2])
    with pytest.raises(ConfigError, match=r"values must be a list of finite numbers, one per run, but \[\] came"):
        mean_interval([])
    with pytest.raises(ConfigError, match="values must be a list of finite numbers"):
        mean_interval([1.0, float("inf")])
    with pytest.raises(ConfigError, match="b must be a list of numbers, one per run"):
        paired_comparison([1.0], ["high"])
    with pytest.raises(ConfigError, match="confidence must be a number strictly between 0 and 1, but 95 came"):
        mean_interval([1.0, 2.0], confidence=95)


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(
        MissingExtraError, match=r"Statistics over runs needs the package 'scipy'.*pvision\[continual\]"
    ):
        mean_interval([1.0, 2.0])
