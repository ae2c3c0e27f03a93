"""Time of the estimators, as ratios to the usual loop where there is one.

Run by hand, a minute: python tests/benchmarks/bench_metrics.py
The usual loop is the published numerically stable formula, 1 - prod_(i = n-c+1..n) (1 - k/i), one problem at a time
(Chen et al. 2021, arXiv 2107.03374, figure 3).
"""

import resource
import time
from collections.abc import Callable

import numpy as np

from harness.estimates import per_problem
from harness.metrics.inference import mean_ci
from harness.metrics.majority import maj_at_k
from harness.metrics.subsets import best_at_k, pass_at_k
from harness.metrics.votes import vote_at_k
from harness.types import Completion, Problem, Results

KS = [1, 2, 4, 8, 16, 32, 64]


def product_loop(n_P: np.ndarray, c_P: np.ndarray, k: int) -> np.ndarray:
    def one(n: int, c: int) -> float:
        if n - c < k:
            return 1.0
        return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    return np.array([one(int(n), int(c)) for n, c in zip(n_P, c_P, strict=True)])


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of some runs: what else the machine does only adds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def answers(rng: np.random.Generator, problems: int, n: int) -> np.ndarray:
    """Labels with one common answer, some rivals and a long tail, in other proportions for every problem."""
    weight = rng.dirichlet(1 / np.arange(1, 41) ** 1.2, problems)
    return (rng.random((problems, n))[:, :, None] > np.cumsum(weight, axis=1)[:, None, :-1]).sum(axis=2)


def million(rng: np.random.Generator, problems: int, n: int) -> Results:
    label, logprob = answers(rng, problems, n), rng.normal(-50, 10, (problems, n))
    names = [f"p{i}" for i in range(problems)]
    return Results(
        problems_P=tuple(Problem(id=name, task="t", prompt="") for name in names),
        completions_PG=tuple(
            tuple(Completion(problem_id=name, index=i, text="", logprob=x, n_tokens=50) for i, x in enumerate(row))
            for name, row in zip(names, logprob.tolist(), strict=True)
        ),
        verdicts_PG=(),
        passed_PG=tuple((label == 0).astype(float)),
        answer_PG=tuple(tuple(map(str, row)) for row in label.tolist()),
        scores={"logprob": tuple(logprob), "reward": tuple(rng.random((problems, n)))},
    )


def main() -> None:
    rng = np.random.default_rng(0)
    n, c = np.full(1000, 100), rng.binomial(100, rng.beta(0.5, 1, 1000))
    ours = seconds(lambda: pass_at_k(n, c, KS))
    loop = seconds(lambda: [product_loop(n, c, k) for k in KS])
    worst = max(np.abs(pass_at_k(n, c, k)[:, 0] - product_loop(n, c, k)).max() for k in KS)
    print(f"pass@k, 1000 problems x n=100 x 7 ks: {1e3 * ours:.2f} ms, 1/{loop / ours:.0f} of the loop; ", end="")
    print(f"they differ by at most {worst:.0e}")

    label = answers(rng, 500, 64)
    correct, score = label == 0, rng.random(label.shape)
    print(f"maj@k, 500 problems x n=64 x 7 ks: {seconds(lambda: maj_at_k(label, correct, KS), 3):.2f} s")
    print(f"best-of-k, the same: {seconds(lambda: best_at_k(correct, score, KS), 3):.3f} s")
    votes = seconds(lambda: vote_at_k(label[:100], score[:100], correct[:100], KS), 1)
    print(f"weighted vote, 100 of them x 2000 subsets: {votes:.2f} s")

    for problems, samples in ((10_000, 100), (1000, 1000)):
        run = million(rng, problems, samples)
        ks = [2**i for i in range(9) if 2**i <= samples // 2]
        started = time.perf_counter()
        shown = {name: mean_ci(u_P) for name, u_P in per_problem(run, ks).items()}
        spent, memory = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"10^6 completions ({problems} x {samples}): {len(shown)} numbers in {spent:.0f} s, {memory:.2f} GB at most"
        )


if __name__ == "__main__":
    main()
