"""Estimators and statistics: pure functions of arrays, numpy and scipy only.

One number per problem first, each the expectation over a random k-subset of its n samples; then inference over
problems. Everything here is a fraction in [0, 1], never a percentage.

    subsets       pass@k, pass^k, G-pass@k, best-of-k, max@k
    majority      maj@k, exactly
    votes         weighted votes
    consensus     MaxPass, CodeT, B4, MBR-exec: choosing by tests that may be wrong
    stages        n@k (filter, cluster, take) and prune-then-rank
    inference     intervals of a mean, a paired difference, a ratio
    gaps          train against test: levels, difference in differences, slopes, equal difficulty
    seeds         methods compared over training seeds
    significance  p-values, Holm, Benjamini-Hochberg
    power         variance parts, rerun error, minimum detectable effect
    verifier      AUROC, pair accuracy, calibration, gain captured
    sequential    estimates under a stopping rule
    blocks        means over k-subsets where there is no formula
    matrices      program x test matrices and their groups of equal rows
    shapes        what all of them ask of their arguments
"""
