"""A run folder of 10^6 completions: read and summarised with every default metric. Target: 60 s, 2 GB on one core.

Run by hand or by `make bench`. The folder is made first (some 250 MB, in a temporary place), then a new process reads
it, so that its peak memory is its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBLEMS, SAMPLES = 10_000, 100


def make(folder: Path) -> None:
    """Answers 0 to 9, 0 the right one; half the completions right."""
    rows = (json.dumps({"id": f"p/{i}", "prompt": "?", "answer": "0"}) + "\n" for i in range(PROBLEMS))
    (folder / "problems.jsonl").write_text("".join(rows))
    with (folder / "completions.jsonl").open("w") as file:
        for i in range(PROBLEMS):
            for j in range(SAMPLES):
                answer = (i * j) % 7 * (j % 3 > 0)
                row = {
                    "problem_id": f"p/{i}",
                    "text": str(answer),
                    "logprob": -((i * 31 + j * 17) % 97) / 10,
                    "n_tokens": 5,
                }
                file.write(json.dumps(row) + "\n")
    command = [sys.executable, "-m", "harness", "eval", "--tasks", "jsonl", "--model", "replay"]
    command += ["--task_args", f"path={folder}/problems.jsonl", "--model_args", f"path={folder}/completions.jsonl"]
    subprocess.run([*command, "--k", "1", "--output_path", str(folder / "run")], check=True, stdout=subprocess.DEVNULL)


def summarise(run: Path) -> None:
    """In a process of its own: read the folder, estimate, say how long and how large."""
    from harness.estimates import estimate
    from harness.finished import results_of

    begun = time.perf_counter()
    _, results = results_of(run)
    read = time.perf_counter()
    metrics = estimate(results, [1, 2, 4, 8, 16, 32, 50]).estimates["jsonl"]
    done = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = f"read in {read - begun:.0f} s, {len(metrics)} metrics in {done - read:.0f} s"
    print(f"10^6 completions: {times}, {memory:.2f} GB")


def main() -> None:
    """Makes the folder and summarises it."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        make(Path(folder))
        print(f"graded in {time.perf_counter() - begun:.0f} s")
        subprocess.run([sys.executable, __file__, f"{folder}/run"], check=True)


if __name__ == "__main__":
    summarise(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
