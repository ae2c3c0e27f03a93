r"""Maths answers: forms, extraction, equality, the limits of the comparison, hostile text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError, MissingDependency
from harness.grading import symbolic
from harness.grading.answer_forms import MAX_LENGTH, as_number, normalise
from harness.grading.answers import (
    cut_run_on,
    equal,
    extract_after,
    extract_boxed,
    extract_last_number,
    first_number,
    grade,
)
from harness.types import Completion, Problem, Status

FORMS = [
    ("18", "18"),
    (" 18. ", "18"),
    ("$29.00", "29"),
    (r"\$29.00", "29"),
    ("$29$", "29"),
    (r"\(29\)", "29"),
    ("007", "7"),
    ("-0", "0"),
    ("+5", "5"),
    ("−5", "-5"),
    ("1,234,567", "1234567"),
    ("1{,}000", "1000"),
    (r"1,\!000", "1000"),
    (r"11,\! 111,\! 100", "11111100"),
    (r"1\,000", "1000"),
    ("1 000 000", "1000000"),
    ("12.50", "25/2"),
    (".5", "1/2"),
    (r"\frac12", "1/2"),
    (r"\dfrac{9}{7}", "9/7"),
    (r"\tfrac{2}{4}", "1/2"),
    (r"-\frac{1}{2}", "-1/2"),
    (r"\frac{-1}{2}", "-1/2"),
    (r"12\frac{3}{5}", "63/5"),
    (r"-1 \frac{1}{2}", "-3/2"),
    ("3 1/2", "7/2"),
    (r"6.29 \times 10^{6}", "6290000"),
    ("6.29e6", "6290000"),
    ("1.2 million", "1200000"),
    (r"48^\circ", "48"),
    (r"48^{\circ}", "48"),
    ("48 degrees", "48"),
    (r"198\%", "198"),
    ("198 percent", "198"),
    (r"100\text{ square units}", "100"),
    (r"5\text{ cm}^2", "5"),
    ("5 cm", "5"),
    ("18 dollars.", "18"),
    (r"\frac{1}{2}\text{ cup}", "1/2"),
    (r"2\pi\text{ inches}", r"2\pi"),
    (r"\boxed{5}", "5"),
    ("x = 5", "5"),
    (r"x \in [1, 2]", "[1,2]"),
    ("f(x) = 2x", "2x"),
    ("(A)", "A"),
    (r"\text{(A)}", "A"),
    ("A.", "A"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\mbox{even}", "even"),
    (r"\text{4:30 p.m.}", "4:30pm"),
    (r"4:30 \text{ p.m.}", "4:30pm"),
    ("4:30 PM", "4:30pm"),
    (r"\left( 0.5, \frac{1}{2} \right)", "(1/2,1/2)"),
    ("1, 2.0", "1, 2"),
    (r"3\text{ or }4", "3, 4"),
    (r"\sqrt2", r"\sqrt{2}"),
    (r"\pi r^2", r"\pi r^{2}"),
    ("2π", r"2\pi"),
    ("", ""),
]


@pytest.mark.parametrize(("answer", "form"), FORMS)
def test_normalise_gives_the_canonical_form(answer: str, form: str) -> None:
    assert normalise(answer) == form
    assert normalise(form) == form


@pytest.mark.parametrize(
    "answer",
    ["4a-2", "4:30", "(3,100)", "[1,2)", r"\{1, 2\}", "1,2", r"\begin{pmatrix}1\\2\end{pmatrix}", "2+3i", "x+1", "5x"],
)
def test_what_is_no_plain_number_stays_what_it_is(answer: str) -> None:
    assert as_number(normalise(answer)) is None
    assert "".join(normalise(answer).split()) == "".join(answer.split())


PIECES = r"""\frac \dfrac12 { } ( ) [ ] $ \$ , . 0 1 12 1,000 - + = x x= \text{ or } \text{cm} \boxed{ \left( \right) ^
\% \sqrt \pi pi e E \cdot * ^{2} /2 /0 million am p.m. \{ \} \\ \! \, ~ or and (A) A. cm sqrt( _ ^\circ & \0 é ½"""
FRAGMENTS = st.sampled_from(PIECES.split())


@settings(max_examples=1500, deadline=None)
@given(st.one_of(st.lists(st.one_of(FRAGMENTS, st.just(" ")), max_size=14).map("".join), st.text(max_size=40)))
def test_a_form_is_its_own_form(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.fractions(max_denominator=10**6), st.sampled_from(["{}", "${}$", r"\boxed{{{}}}", "x = {}", "{}."]))
def test_every_fraction_is_read_exactly(value: Fraction, wrapped: str) -> None:
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    for text in (str(value), rf"{sign}\frac{{{top}}}{{{bottom}}}", rf"{sign}\dfrac{{{top:,}}}{{{bottom:,}}}"):
        assert as_number(normalise(wrapped.format(text))) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact(value: object) -> None:
    assert as_number(normalise(f"{value:f}")) == as_number(normalise(f"{value:,f}")) == Fraction(str(value))


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$", "5"),
        (r"\boxed {5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{3}, 4}", r"\boxed{3}, 4"),
        (r"a stray } and { \boxed{5}", "5"),
        (r"\boxed{3} but no, \boxed{\frac{1", "3"),
        (r"\boxed{}", None),
        (r"\boxed{5", None),
        ("no box", None),
    ],
)
def test_extract_boxed(text: str, boxed: str | None) -> None:
    assert extract_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "last", "first"),
    [
        ("it costs $29.00.", "29.00", "29.00"),
        ("from 1,200 to -5", "-5", "1200"),
        ("-$5", "-5", "-5"),
        ("$-5", "-5", "-5"),
        ("−5 (minus)", "-5", "-5"),
        ("16-3", "3", "16"),
        ("16 - 3", "3", "16"),
        ("3+4 = <<3+4=7>>7 apples, x2", "7", "3"),
        ("<<3+4=7>>", None, "3"),
        ("none", None, None),
        ("10, 20, 30", "30", "10"),
    ],
)
def test_numbers_in_text(text: str, last: str | None, first: str | None) -> None:
    assert extract_last_number(text) == last
    assert first_number(text) == first


def test_extract_after_takes_the_last_line_or_the_next() -> None:
    marker = re.compile(r"answer is", re.IGNORECASE)
    assert extract_after("The answer is 3\nNo, the answer is 4 cats\nbye", marker) == "4 cats"
    assert extract_after("The answer is:\n\n  7", marker) == "7"
    assert extract_after("no", marker) is None


def test_run_on_is_cut_only_after_something() -> None:
    marker = re.compile(r"^Question:", re.MULTILINE)
    assert cut_run_on("It is 5.\n\nQuestion: what?\n#### 6", marker) == "It is 5.\n\n"
    assert cut_run_on("Question: what?\nIt is 5.", marker) == "Question: what?\nIt is 5."


EQUAL = [
    (r"\dfrac{9}{7}", "9/7"),
    ("$29.00", "29"),
    ("0.5", r"\frac{1}{2}"),
    (r"50\%", "0.5"),
    (r"50\%", "50"),
    ("10,000", "10000"),
    ("100, 200, 300", "100,200,300"),
    ("x=5", "5"),
    ("4210", "4210_5"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("1+2x", "2x+1"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt{2}}"),
    ("2, 1", "1,2"),
    (r"\{1,2\}", "1,2"),
    (r"(\frac12, 3)", "(0.5,3)"),
    ("1, 2", "(1,2)"),
    (r"3\pm\sqrt2", r"3+\sqrt{2}, 3-\sqrt{2}"),
    ("y-2x=0", "y=2x"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{bmatrix}1\\[2pt]2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"(3,\infty)\cup(-\infty,3)", r"(-\infty,3)\cup(3,\infty)"),
    ("evelyn", r"\text{Evelyn}"),
]
DIFFERENT = [
    ("0.333", r"\frac{1}{3}"),
    ("0.3333333333", r"\frac{1}{3}"),
    ("-5", "5"),
    ("10.00", "1000"),
    ("5", r"6\%"),
    ("4210_6", "4210_5"),
    ("(2,1)", "(1,2)"),
    ("2, 1", "(1,2)"),
    ("[1,2)", "(1,2)"),
    ("1, 2", "1"),
    ("x = 5", "y = 5"),
    ("B", "A"),
    (r"\text{silent}", r"\text{listen}"),
    ("4:30", r"\text{4:30 p.m.}"),
    ("4:30 a.m.", r"\text{4:30 p.m.}"),
    ("1.2 million", "1.2"),
    ("3.14", r"\pi"),
    ("1.414214", r"\sqrt{2}"),
    ("x^2", "x^3"),
    ("", "5"),
    ("$", "5"),
]


ALIKE_BUT_DIFFERENT = [
    (r"\frac{1}{2^{2023}}", r"\frac{1}{2^{2024}}"),
    (r"1-\frac{1}{2^{2024}}", r"1-\frac{1}{2^{2023}}"),
    ("(5/6)^{200}", "(5/6)^{201}"),
    (r"\left(\frac{5}{6}\right)^{200}", r"\left(\frac{5}{6}\right)^{201}"),
    (r"\frac{x}{2^{2023}}", r"\frac{x}{2^{2024}}"),
    (r"\sqrt{10^{40}+1}", "10^{20}"),
    ("2^{2023}+0.1", "2^{2023}"),
    (r"\{0.333333\}", r"\{\frac13\}"),
    (r"\{1.414214\}", r"\{\sqrt{2}\}"),
    ("(1.414214, 1)", r"(\sqrt{2}, 1)"),
    ("--1.4142136", r"\sqrt2"),
    (r"\begin{pmatrix}0.333333\\1\end{pmatrix}", r"\begin{pmatrix}\frac13\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1.414214\\1\end{pmatrix}", r"\begin{pmatrix}\sqrt2\\1\end{pmatrix}"),
    ("x+0.333333", r"x+\frac13"),
    (r"\prod_{k=1}^{5}k", r"\sum_{k=1}^{5}k"),
    ("2 1/2", "21/2"),
    ("1 2", "12"),
    ("1, 234", "1,234"),
    ("(1, 234)", "1234"),
    ("5=7", "7"),
    ("2x=6", "6"),
    ("-x=7", "7"),
    ("x^2=7", "7"),
    ("1=2=3=7", "7"),
    (r"x\approx 7", "7"),
    ("x≈7", "7"),
    (r"8, \boxed{7}", "7"),
    (r"7 \text{is not}\boxed{8}", "8"),
    (r"7 \text{is not}\boxed{8}", "7"),
    (r"8 \boxed{7}", "15"),
    ("7 is wrong", "7"),
    ("7 minus one", "7"),
    ("7 halves", "7"),
    ("7 cubed", "7"),
    ("7 tenths", "7"),
    ("7 sixths", "7"),
    ("7 fifths", "7"),
    ("7 eighths", "7"),
    ("7 hundredths", "7"),
    ("7 ninths", "7"),
    ("7 twentieths", "7"),
    ("7 millionths", "7"),
    (r"7\mathrm{i}", "7"),
    (r"7\text{x}", "7"),
    (r"7\text{ x/2}", "7"),
    (r"7\text{ 3}", "7"),
    (r"7\text{ 3}", "73"),
    (r"7\text{ 3}", "21"),
    (r"7\text{ halves}", "7"),
    (r"2\sqrt{3}\text{ x}", r"2\sqrt{3}"),
    (r"\{1,2\}", "(1,2)"),
    ("(2,1)", "1,2"),
    ("[2,1]", "1,2"),
    ("1,1,2", "1,2"),
    ("1,1,2", r"\{1,2\}"),
    ("(2,1)", "(5,3)"),
    ("(2,1),(3,4)", "(3,4),(7,5)"),
    (r"\frac{0}{0}", r"\frac{0}{0}"),
    (r"\frac{0}{0}", "0"),
    (r"\frac{0}{0}", "1"),
    ("0/0", "0/0"),
    (r"\frac{x}{0}", r"\frac{x}{0}"),
    ("x=5=7", "7"),
    ("x=1,y=2", "(2,1)"),
    (r"7\text{ apples}", r"7\text{ pears}"),
    ("x=x+1", "x^2+1=0"),
    (r"\{7\}", "(7,7)"),
    (r"\sqrt{10^{80}+1}", "10^{40}"),
    ("7 five", "7"),
    ("7 hundred", "7"),
    ("7 dozen", "7"),
    ("7 wrong", "7"),
    ("7 fewer apples", "7"),
    (r"\pi+10^{-400}", r"\pi"),
    (r"[0.333333,1)", r"[\frac13,1)"),
    (r"x<0.333333", r"x<\frac13"),
    (r"\sin(10^{-20})", "10^{-20}"),
    ("7 m", "7n"),
]
EQUAL_EITHER_WAY = [
    ("x=7", "7"),
    ("x = 7", "x=7"),
    ("f(x)=7", "7"),
    ("x_1 = 7", "7"),
    ("x_{12} = 7", "7"),
    (r"\theta=\frac{\pi}{6}", r"\pi/6"),
    (r"\theta = 30^\circ", "30"),
    ("2 1/2", "5/2"),
    (r"2.5\sqrt{2}", r"\frac{5\sqrt2}{2}"),
    ("0.5x+1", r"\frac{x}{2}+1"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    (r"\sin(\pi/6)", "0.5"),
    (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}"),
    (r"\log_2 8", "3"),
    (r"e^{\ln 5}", "5"),
    ("(5/6)^{2}", "25/36"),
    (r"\sum_{k=1}^{5}k", "15"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    (r"\{1,2\}", "2,1"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\{1,1,2\}", r"\{1,2\}"),
    (r"\{\sqrt8,1\}", r"1, 2\sqrt2"),
    (r"(2\sqrt2,0.5)", r"(\sqrt{8},\frac12)"),
    (r"[\sqrt8,\infty)", r"[2\sqrt2, \infty)"),
    (r"(-\infty,\sqrt8]", r"(-\infty,2\sqrt2]"),
    ("x=1, x=2", "2,1"),
    (r"x=1 \text{ or } x=2", "1,2"),
    ("x=1, y=2", "(1,2)"),
    (r"7\text{ apples}", "7"),
    ("18 apples", "18"),
    ("18 apples.", "18"),
    ("5 dollars per day", "5"),
    (r"7\text{ apples}", r"7\text{ apple}"),
    (r"5\text{ cm}", r"5\text{ centimeters}"),
    (r"5\text{ cm}^2", "5"),
    (r"5 \text{ square units}", "5"),
    (r"5\text{ m/s}^2", "5"),
    (r"5\text{ m/s^2}", "5"),
    (r"5\mbox{ miles per hour}", "5"),
    ("5 miles per hour", "5"),
    (r"7\text{ ways}", "7"),
    ("6 square inches", "6"),
    ("6cm^2", "6"),
    (r"6 \mathrm{m}", "6"),
    (r"2\sqrt{3}\text{ cm}", r"2\sqrt{3}"),
    (r"\begin{pmatrix}\sqrt8\\0.5\end{pmatrix}", r"\begin{pmatrix}2\sqrt2\\\frac12\end{pmatrix}"),
    ("2+3i", "3i+2"),
    (r"\sqrt8+i", r"2\sqrt2+i"),
    ("x>3", "3<x"),
    ("2x+y=4", "y=4-2x"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("(x+1)(x-2)", "x^2-x-2"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\{7\}", "7"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"1\,000", "1000"),
    ("y=-2x+0.5", r"y=\frac12-2x"),
    (r"x^2+\frac{1}{4}=y", "y=x^2+0.25"),
    (r"10\pi\text{ cm}", r"10\pi"),
    (r"-\infty", r"-\infty"),
    (r"(-\infty, 2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", r"\sqrt[3]{\sqrt5+2}+\sqrt[3]{2-\sqrt5}"),
]


@pytest.mark.parametrize(("answer", "reference"), ALIKE_BUT_DIFFERENT)
def test_what_looks_alike_is_different_either_way(answer: str, reference: str) -> None:
    assert equal(answer, reference) is False
    assert equal(reference, answer) is False


@pytest.mark.parametrize(("answer", "reference"), EQUAL_EITHER_WAY)
def test_equal_either_way(answer: str, reference: str) -> None:
    assert equal(answer, reference) is True
    assert equal(reference, answer) is True


def test_long_lists_are_compared_as_text() -> None:
    numbers = ", ".join(map(str, range(60)))
    assert equal(", ".join(map(str, reversed(range(60)))), numbers) is True
    assert equal(", ".join(f"\\sqrt{{{n}}}" for n in range(60)), numbers) is False


@pytest.mark.parametrize(("answer", "reference"), EQUAL)
def test_equal(answer: str, reference: str) -> None:
    assert equal(answer, reference) is True


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different(answer: str, reference: str) -> None:
    assert equal(answer, reference) is False


def test_no_reference_is_an_error_and_never_equal_to_no_answer() -> None:
    with pytest.raises(InputError, match="reference answer"):
        equal("", "")


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch PWNED')",
        r"\text{__import__('os').system('touch PWNED')}",
        "eval(open('PWNED','w'))",
        "{" * 900 + "1" + "}" * 900,
        "(" * 900 + "1" + ")" * 900,
        r"\sqrt{" * 250 + "2" + "}" * 250,
        "{" * 100_000 + "1" + "}" * 100_000,
        "1" * 100_000,
        "1" * MAX_LENGTH,
        "1e999",
        r"\frac{1}{0}",
        "$" * MAX_LENGTH,
        "\\",
        "\\frac",
        "\x00\ud800",
        '"}\n{"equal": true}\n',
        "a b" * 600 + "!",
        r"\text{" * 300,
    ],
)
def test_hostile_answers_are_wrong_quickly_and_harmless(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    assert equal(answer, r"\sqrt{8}") is False
    assert extract_boxed(r"\boxed{" + answer + "}") != ""
    assert time.monotonic() - start < 5
    assert not list(tmp_path.iterdir())
    assert not Path("/PWNED").exists()


LONG = [
    *(
        piece * 100_000
        for piece in ("\\", "{", "}", "1", "1,", "1.", "-", " ", "\n", "<<", "<", "*", "$", "a", "answer ")
    ),
    *(
        piece * 20_000
        for piece in ("\\boxed ", "\\boxed{", "\\boxed \\a{", "\\boxed\\\\", "1,111", "-$", "\\ ", "Question ")
    ),
    "{" * 50_000 + "}" * 50_000,
    "\\boxed" + " " * 100_000,
    "\\boxed " + "\\a" * 50_000 + "{",
    "answer is" + " " * 100_000,
    "1,111" + ",111" * 25_000 + "1",
    "<<" + "a" * 100_000,
]


@pytest.mark.parametrize("text", LONG)
def test_extraction_is_linear(text: str) -> None:
    start = time.process_time()
    extract_boxed(text)
    extract_last_number(text)
    first_number(text)
    extract_after(text, re.compile(r"answer\s+is|answer:|####", re.IGNORECASE))
    cut_run_on(text, re.compile(r"^[ \t]*Question[ \t]*:", re.MULTILINE))
    assert time.process_time() - start < 1


def _problem(answer: str | None = "5") -> Problem:
    return Problem(id="t/0", task="t", prompt="?", answer=answer)


def _completion(answer: str | None) -> Completion:
    return Completion(problem_id="t/0", index=3, text="", answer=answer)


def test_a_comparison_without_end_is_wrong_and_the_next_one_is_graded() -> None:
    verdict = grade(_problem(r"\sqrt{8}"), _completion(r"9^{9^{9^{9}}}"), (), timeout_s=1)
    assert verdict.passed is False
    assert verdict.status == Status.timeout
    assert "takes more than 1 s" in verdict.detail
    assert equal(r"2\sqrt2", r"\sqrt8") is True


def test_a_crashed_worker_is_replaced() -> None:
    assert equal(r"2\sqrt2", r"\sqrt8") is True
    assert symbolic._worker is not None
    process = symbolic._worker.process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert equal(r"2\sqrt2", r"\sqrt8") is True
    assert symbolic._worker.process.pid != process.pid


def test_a_reply_that_nobody_waited_for_is_not_taken_for_the_next() -> None:
    worker = symbolic._ready_worker()
    worker.asked += 1
    request = {"number": worker.asked, "answer": "x+1", "reference": "1+x", "cpu_s": 5}
    assert worker.process.stdin is not None
    worker.process.stdin.write(json.dumps(request).encode() + b"\n")
    assert symbolic.compare("x+1", "x+2") is False


def test_threads_share_the_worker() -> None:
    got: dict[int, bool | None] = {}

    def ask(number: int) -> None:
        got[number] = symbolic.compare(f"{number}+x", "x+7")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: number == 7 for number in range(12)}


def test_this_process_never_loads_sympy_and_leaves_no_worker() -> None:
    code = (
        "import sys\nfrom harness.grading.answers import equal\nfrom harness.grading import symbolic\n"
        "assert equal('x+1','1+x') is True\nassert not {'sympy', 'math_verify'} & set(sys.modules)\n"
        "print(symbolic._worker.process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(f"/proc/{int(done.stdout)}").exists()


@pytest.mark.slow
def test_a_forked_process_has_a_worker_of_its_own() -> None:
    code = (
        "import os\nfrom harness.grading import symbolic\n"
        "assert symbolic.compare('x+1', '1+x')\nparent = symbolic._worker.process.pid\n"
        "child = os.fork()\n"
        "assert symbolic.compare('x+2', '2+x') and not symbolic.compare('x+2', '3+x')\n"
        "assert (symbolic._worker.process.pid == parent) == bool(child)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_math_verify_is_missed_only_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    symbolic.close()
    try:
        assert equal("0.5", "1/2") is True
        with pytest.raises(MissingDependency, match=r"treatment-harness\[math\]"):
            equal("x+1", "1+x")
    finally:
        symbolic.close()


def test_verdicts() -> None:
    right = grade(_problem(r"\sqrt{8}"), _completion(r"2\sqrt{2}"), ())
    assert (right.passed, right.status, right.index) == (True, Status.passed, 3)
    assert right.answer == normalise(r"\sqrt{8}"), "right answers are one class in a vote"
    wrong = grade(_problem(), _completion("0.50"), ())
    assert (wrong.passed, wrong.status, wrong.answer) == (False, Status.wrong, "1/2")
    for answer in (None, " "):
        none = grade(_problem(), _completion(answer), ())
        assert (none.passed, none.status, none.answer, none.detail) == (False, Status.wrong, None, "no answer found")
    long = grade(_problem(), _completion("5" * 3000), ())
    assert (long.passed, long.answer) == (False, None)
    with pytest.raises(InputError, match="t/0 has no answer"):
        grade(_problem(None), _completion("5"), ())
