"""Measured coverage of every interval and type-I error and power of every test, by simulation.

Run by hand, some minutes: python tests/benchmarks/coverage.py [REPEATS]
Every problem has a success rate from a beta distribution; a data set is problems x n samples; an interval covers if it
holds the mean over all problems that the distribution can give. Numbers are percent, of 95 and 5 wanted.
"""

import sys
import time

import numpy as np
from scipy import stats
from tabulate import tabulate

from harness.metrics.gaps import did_ci, gap_ci, matched_gap
from harness.metrics.inference import diff_ci, mean_ci, ratio_ci
from harness.metrics.seeds import seeds_ci
from harness.metrics.sequential import confidence_sequence
from harness.metrics.significance import holm, p_value, sign_flip
from harness.metrics.subsets import best_at_k, pass_at_k

MEANS = (0.5, 0.2, 0.05, 0.01, 0.95, 0.7)
CONCENTRATION = 1.2


def covers(interval, truth) -> bool:
    return interval.low <= truth <= interval.high


def means(rng, repeats) -> None:
    """Intervals of one mean: ours, Student's t, and Wilson's on all samples pooled (pass@1); 30 to 1000 problems."""
    rows, every = [], []
    for mean in MEANS:
        hits = []
        for problems in (30, 100, 164, 1000):
            for n, k in ((1, 1), (10, 1), (100, 1), (10, 10), (100, 10)):
                hits.append(one_mean(rng, repeats, mean, problems, n, k))
        cover = 100 * np.array(hits)
        rows.append([mean, *np.ravel([[np.nanmean(c), np.nanmin(c)] for c in cover.T])])
        every.append(cover)
    headers = ["mean p", "ours", "least", "t", "least", "pooled", "least"]
    print(tabulate(rows, headers=headers, floatfmt=("g", *6 * (".1f",))))
    for name, column in zip(("ours", "t", "pooled"), np.concatenate(every).T, strict=True):
        column = column[np.isfinite(column)]
        print(
            f"{name}: mean {column.mean():.1f}, below 93 in {100 * (column < 93).mean():.0f}% of {column.size} settings"
        )


def one_mean(rng, repeats, mean, problems, n, k) -> np.ndarray:
    """Shares of data sets whose interval holds the true pass@k: ours, t, pooled."""
    a, b = CONCENTRATION * mean, CONCENTRATION * (1 - mean)
    truth = 1 - np.prod([(b + j) / (a + b + j) for j in range(k)])
    hits = np.zeros(3)
    for _ in range(repeats):
        c = rng.binomial(n, rng.beta(a, b, problems))
        u = pass_at_k(n, c, k)[:, 0]
        half = stats.t.ppf(0.975, problems - 1) * u.std(ddof=1) / problems**0.5
        pooled = stats.binomtest(int(c.sum()), problems * n).proportion_ci(method="wilson") if k == 1 else None
        hits += [
            covers(mean_ci(u), truth),
            abs(u.mean() - truth) <= half,
            np.nan if pooled is None else pooled.low <= truth <= pooled.high,
        ]
    return hits / repeats


def outcomes(rng, case, problems, n):
    """Two checkpoints on the same problems: (P,) success rates each, as observed."""
    if case == "skew":  # 90% of problems gain 5 points, 10% lose 45: the mean difference is 0
        p = rng.uniform(0.45, 0.95, problems)
        q = p + np.where(rng.random(problems) < 0.9, 0.05, -0.45)
    elif case == "some":  # 6% of problems are newly solved
        p = rng.beta(0.6, 0.6, problems)
        q = np.where(rng.random(problems) < 0.06, 1.0, p)
    else:
        p = rng.beta(0.6, 0.6, problems)
        q = {"same": p, "shift": 1 - 0.864 * (1 - p)}[case]
    return rng.binomial(n, p) / n, rng.binomial(n, q) / n


def comparisons(rng, repeats) -> None:
    """Rejections at 5%: same and skew have no difference in the mean, shift is +6.8 points, some is +3."""
    rows = []
    for case, problems, n in [
        *(("same", m, n) for m in (30, 164) for n in (1, 10)),
        *(("skew", m, 10) for m in (164, 500)),
        *(("shift", 164, n) for n in (1, 10)),
        ("some", 500, 10),
    ]:
        found = np.zeros(5)
        for _ in range(repeats):
            base, treat = outcomes(rng, case, problems, n)
            d = treat - base
            unequal = int((d > 0).sum()), int((d != 0).sum())
            p = [
                p_value(diff_ci(d)),
                sign_flip(d, resamples=399, rng=rng),
                stats.ttest_ind(treat, base, equal_var=False).pvalue,
                stats.wilcoxon(d, method="asymptotic").pvalue if unequal[1] else 1.0,
                stats.binomtest(*unequal).pvalue if unequal[1] else 1.0,
            ]
            found += np.array(p) < 0.05
        rows.append([case, problems, n, *100 * found / repeats])
    headers = ["case", "problems", "n", "paired t", "sign-flip", "unpaired t", "Wilcoxon", "sign test"]
    print(tabulate(rows, headers=headers, floatfmt=".1f"))


def families(rng, repeats) -> None:
    """Chance of any false claim among 15 comparisons with one baseline per task, none of them real."""
    plain = corrected = 0
    for _ in range(repeats):
        p = []
        for _ in range(3):
            rate = rng.beta(0.6, 0.6, 164)
            base = rng.binomial(4, rate) / 4
            p += [p_value(diff_ci(rng.binomial(4, rate) / 4 - base)) for _ in range(5)]
        plain += min(p) < 0.05
        corrected += holm(p).min() < 0.05
    print(f"any false claim of 15: {100 * plain / repeats:.1f} uncorrected, {100 * corrected / repeats:.1f} with Holm")


def train_and_test(rng, repeats) -> None:
    """Gaps, differences in differences and the share captured by a verifier."""
    rows = []
    for n in (1, 4, 32):
        hits, widths = np.zeros(3), np.zeros(3)
        for _ in range(repeats):
            u = []
            for problems in (1000, 164):
                p = rng.beta(0.6, 0.6, problems)
                u += [rng.binomial(n, p + 0.1 * (1 - p)) / n, rng.binomial(n, p) / n]
            level, paired = gap_ci(u[0], u[2]), did_ci(*u)
            both = level, paired, gap_ci(u[1], u[3])
            unpaired = 1.96 * (both[0].se ** 2 + both[2].se ** 2) ** 0.5
            hits += [covers(level, 0), covers(paired, 0), abs(paired.value) <= unpaired]
            widths += [level.high - level.low, paired.high - paired.low, 2 * unpaired]
        rows.append([n, *100 * hits / repeats, *widths / repeats])
    headers = ["n", "gap", "DiD", "DiD unpaired", "width: gap", "DiD", "DiD unpaired"]
    print(tabulate(rows, headers=headers, floatfmt=("d", ".1f", ".1f", ".1f", ".3f", ".3f", ".3f")))

    for problems in (30, 164, 500):
        p = rng.beta(0.6, 0.6, (200_000, 1))

        def captured(p, n=16):
            correct = rng.random((len(p), n)) < p
            best = best_at_k(correct, correct + rng.normal(size=(len(p), n)), 4)[:, 0]
            return best - correct.mean(axis=1), pass_at_k(n, correct.sum(axis=1), 4)[:, 0] - correct.mean(axis=1)

        num, den = captured(p)
        truth = num.mean() / den.mean()
        hit = sum(covers(ratio_ci(*captured(rng.beta(0.6, 0.6, (problems, 1)))), truth) for _ in range(repeats))
        print(f"share captured ({truth:.3f}), {problems} problems: {100 * hit / repeats:.1f}")


def equal_difficulty(rng, repeats) -> None:
    """matched_gap where the true gap is 0 and train is easier."""
    for n_base in (4, 16):
        values, hit, raw = [], 0, []
        for _ in range(max(repeats // 40, 10)):
            sets = []
            for shape, problems in (((2.4, 1.2), 600), ((1.2, 1.2), 400)):
                p = rng.beta(*shape, problems)
                sets.append((rng.binomial(16, p**1.5) / 16, rng.binomial(n_base, p)))
            (train, c_train), (test, c_test) = sets
            interval = matched_gap(train, test, c_train, c_test, n_base=n_base, resamples=199, rng=rng)
            values.append(interval.value)
            raw.append(train.mean() - test.mean())
            hit += covers(interval, 0)
        print(
            f"matched gap, {n_base} base samples: bias {np.mean(values):+.4f} of a raw gap {np.mean(raw):+.3f}, "
            f"coverage {100 * hit / len(values):.0f}"
        )


def training_seeds(rng, repeats) -> None:
    """Two equal methods with S seeds each, 164 problems x 4 samples, seed standard deviation in logits."""
    rows = []
    for seeds in (2, 3, 5, 10):
        for spread in (0.02, 0.3):
            hits = np.zeros(3)
            for _ in range(repeats):
                logit = rng.normal(0, 1.5, 164)
                luck = rng.normal(0, spread, (2, seeds, 1))
                base, treat = rng.binomial(4, 1 / (1 + np.exp(-(logit + luck)))) / 4
                same, new = seeds_ci(base, treat, new_problems=False), seeds_ci(base, treat)
                naive = diff_ci(treat.mean(axis=0) - base.mean(axis=0))
                hits += [covers(naive, 0), covers(same, 0), covers(new, 0)]
            rows.append([seeds, spread, *100 * hits / repeats])
    headers = ["seeds", "sd", "problem-level t", "seeds_ci, same problems", "seeds_ci, new problems"]
    print(tabulate(rows, headers=headers, floatfmt=".4g"))


def clusters_and_looks(rng, repeats) -> None:
    """Clustered problems, and intervals looked at after every problem."""
    hits = np.zeros(2)
    for _ in range(repeats):
        cluster = np.repeat(np.arange(40), rng.integers(1, 10, 40))
        u = rng.binomial(8, rng.beta(0.6, 0.6, 40)[cluster]) / 8
        hits += [covers(mean_ci(u, cluster), 0.5), covers(mean_ci(u), 0.5)]
    print("40 clusters of 1 to 9: named {:.1f}, not named {:.1f}".format(*100 * hits / repeats))
    n = np.arange(1, 2001)
    for p in (0.1, 0.5):
        c = np.cumsum(rng.random((min(repeats, 1000), 2000)) < p, axis=1)
        low, high = confidence_sequence(c, n)
        missed = ((low > p) | (high < p)).any(axis=1).mean()
        print(f"confidence sequence, p = {p}: misses at any of 2000 looks {100 * missed:.1f}")


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rng = np.random.default_rng(0)
    for part in (means, comparisons, families, train_and_test, equal_difficulty, training_seeds, clusters_and_looks):
        started = time.perf_counter()
        print(f"\n{part.__name__}: {part.__doc__}")
        part(rng, repeats)
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
