"""A task that a tiny random model can learn: write a certain letter early."""

from harness.types import Completion, Problem, Status, Task, Verdict


def toy(split: str = "train", n: int = 24, letter: str = "e") -> Task:
    """Passed if `letter` is among the first four characters."""

    def grade(problem: Problem, completion: Completion, executions: object) -> Verdict:
        passed = letter in completion.text[:4]
        return Verdict(
            problem_id=problem.id,
            index=completion.index,
            passed=passed,
            status=Status.passed if passed else Status.wrong,
            answer=completion.text[:4],
        )

    problems = tuple(
        Problem(id=f"toy/{split}/{i}", task="toy", prompt=f"{i} {split} apples", split=split, answer=letter)
        for i in range(n)
    )
    return Task(
        name="toy",
        problems=problems,
        extract=lambda problem, completion: completion,
        grade=grade,
        gold=lambda problem: Completion(problem_id=problem.id, index=0, text=f" {letter}{letter}"),
    )
