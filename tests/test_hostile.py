"""Answers that a model may write to crash, stall or fool the verifier: none may score as right."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hicra.boxed import extract_boxed
from hicra.study.problems.grading import MAX_DEPTH, MAX_LENGTH, Grade, Verifier

MEGABYTE = 1_000_000
GOLD = "5"

SLOW = {  # what costs time or memory where it is computed; a limit or a quick "wrong" ends it
    "nested exponents": "9^{9^{9^{9^{9}}}}",
    "nested exponents, negative": "2^{-2^{-2^{-9^{9^9}}}}",
    "nested exponents of e": "e^{e^{e^{e^{e^{e}}}}}",
    "tower in a fraction": r"\frac{10^{10^{10^{10}}}}{10^{10^{10^{10}}}} + 4",
    "tower minus tower": "9^{9^{9^9}} - 9^{9^{9^9}} + 5 + 9^{-9^{9^9}}",
    "huge power": "123456789^{123456789}",
    "gigabyte power": "2^{8589934592}",
    "huge factorial": "100000000!",
    "nested factorials": "((((9!)!)!)!)!",
    "factorial ratio": r"\frac{50000000!}{49999999!}",
    "huge binomial": r"\binom{1000000000}{500000000}",
    "long sum": r"\sum_{k=1}^{10^{12}} k^{k}",
    "long product": r"\prod_{k=1}^{10^{9}} (k+x)",
    "nested sums": r"\sum_{i=1}^{999999}\sum_{j=1}^{999999}\sum_{k=1}^{999999} \frac{1}{ijk}",
    "hard integral": r"\int_0^1 x^{x^{x^{x}}} \sin(\exp(x)) dx",
    "hard limit": r"\lim_{x \to \infty} \frac{\sin(x!)^{x}}{x^{x^{x}}}",
    "large polynomial": "(x+y+z+w+a+b+c)^{60} - (x+y+z+w+a+b+c)^{59}",
    "deep radicals": r"\sqrt{2+" * 30 + "2" + "}" * 30,
    "continued fraction": r"\frac{1}{1+" * 30 + "1" + "}" * 30,
    "huge modulus": r"7^{7^{7^{7^{7}}}} \mod 10",
    "huge logarithm": r"\log_{2}(2^{2^{2^{2^{2^{2}}}}})",
    "many terms": "+".join(f"x^{{{i}}}" for i in range(120)),
    "prime factor bait": str(2**127 - 1) + "^{1/7}" + f" {2**521 - 1}!",
}

BROKEN = {  # what must be turned away before any mathematics
    "thousand-level braces": "{" * 1000 + "5" + "}" * 1000,
    "thousand-level brackets": "(" * 1000 + "5" + ")" * 1000,
    "thousand-level fractions": r"\frac{1}{" * 1000 + "5" + "}" * 1000,
    "thousand-level roots": r"\sqrt{" * 1000 + "25" + "}" * 1000,
    "one level above the limit": "(" * (MAX_DEPTH + 1) + "5" + ")" * (MAX_DEPTH + 1),
    "closing brackets only": ")" * 1000,
    "megabyte of digits": "5" * MEGABYTE,
    "megabyte of spaces in a sum": "2+" + " " * MEGABYTE + "3+" + "0+" * 5000,
    "megabyte of zeros": "5." + "0" * MEGABYTE,
    "megabyte of minus signs": "-" * MEGABYTE + "5",
    "megabyte of text": "five " * (MEGABYTE // 5),
    "one character too long": "5+" + "0" * (MAX_LENGTH - 1),
    "empty": "",
    "spaces": "   ",
    "null": "5\0",
    "null first": "\x005",
    "escape sequence": "\x1b[31m5\x1b[0m",
    "bell and backspace": "6\x07\x085",
    "delete": "5\x7f",
    "vertical tab": "5\x0b",
    "zero-width space": "5\u200b",
    "right-to-left override": "\u202e5",
    "byte-order mark": "\ufeff5",
    "half a surrogate pair": "5\ud800",
    "full-width five": "\uff15",
    "Arabic-Indic five": "\u0665",
    "Devanagari five": "\u096b",
    "mathematical bold five": "\U0001d7d3",
    "superscript five": "\u2075",
    "circled five": "\u2464",
    "Roman numeral five": "\u2164",
    "combining mark on five": "5\u0301",
    "Unicode minus": "\u22125",
    "numbers side by side": "2 3",
    "numbers side by side by a LaTeX blank": r"2\ 3",
    "line break in LaTeX": r"5\\6",
    "empty commands": r"\frac{}{}",
    "unbalanced left and right": r"\left( 5",
    "comparison without left side": "= 5",
}

CODE = {  # what looks like a program or a LaTeX command
    "Python import": "__import__('os').system('touch hacked')",
    "Python exit": "exit(0)",
    "Python eval": "eval('2+3')",
    "Python lambda": "(lambda: 5)()",
    "Python dunder": "().__class__.__bases__[0].__subclasses__()",
    "Python open": "open('/etc/passwd').read()",
    "Python loop": "[5 for _ in iter(int, 1)]",
    "Python equality bait": "type('x', (), {'__eq__': lambda *a: True})()",
    "sympy name": r"sympify('5')",
    "LaTeX input": r"\input{/etc/passwd}",
    "LaTeX write": r"\immediate\write18{touch hacked}",
    "LaTeX endless macro": r"\def\x{\x\x}\x",
    "LaTeX redefinition": r"\renewcommand{\boxed}[1]{5} 6",
    "LaTeX end of document": r"\end{document}",
    "JSON verdict": '["right"]',
    "protocol word": "right\nright",
    "JSON injection": '5"], ["5", "5',
    "format string": "%s%s%n {0} {answer}",
    "HTML": "<script>alert(5)</script>",
}

FOOLING = {  # what hopes for a lenient comparison
    "equation with the gold at its end": "3 = 5",
    "chain with the gold at its end": "1 = 2 = 5",
    "set of equations": r"\{3 = 5\}",
    "two candidates": "5, 6",
    "three candidates": r"4 \text{ or } 5 \text{ or } 6",
    "plus or minus": r"5 \pm 1",
    "interval": "[5, 5.1]",
    "inequality": r"x \geq 5",
    "negated": r"\text{not } 5",
    "prose": "the answer is 5",
    "not equal": r"\neq 5",
    "approximately": "5.00001",
    "infinity": r"\infty",
    "not a number": r"\frac{0}{0}",
    "division by zero": r"\frac{5}{0}",
    "nan": "nan",
    "variable": "x",
    "placeholder": "answer",
    "percent of another number": r"4\%",
}

COMPLETIONS = {  # whole completions
    "gold in the reasoning, another boxed": r"The answer is 5. I am sure it is 5. \boxed{6}",
    "gold boxed first": r"\boxed{5} wait, no: \boxed{6}",
    "gold boxed inside thinking": r"<think>\boxed{5}</think> \boxed{6}",
    "gold boxed in open thinking": r"<think>so \boxed{5}",
    "gold in a box that never closes": r"\boxed{5",
    "gold boxed around another": r"\boxed{5 \boxed{6}}",
    "hundred boxes": r"\boxed{5} " * 100 + r"\boxed{6}",
    "gold after the box": r"\boxed{6} = 5",
    "unbalanced braces": r"}}}}\boxed{{{{5}}}",
    "megabyte of opening braces": r"\boxed{5" + "{" * MEGABYTE,
    "megabyte of boxes that never close": r"\boxed{" * (MEGABYTE // 7),
    "megabyte of backslashes": "\\" * (MEGABYTE + 1) + "boxed{5",
    "megabyte of box and blanks": (r"\boxed" + " " * 100) * (MEGABYTE // 106),
    "megabyte of thinking tags": "<think>" * (MEGABYTE // 7) + r"\boxed{5}",
    "no box": "5",
    "empty completion": "",
}

ANSWERS = {**SLOW, **BROKEN, **CODE, **FOOLING}
HOSTILE = {name: f"\\boxed{{{text}}}" for name, text in ANSWERS.items()} | COMPLETIONS


def server_of(supervisor: int) -> int:
    """The process id of the server that a worker's supervisor has forked."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == supervisor:
            return int(stat.parent.name)
    raise AssertionError(f"process {supervisor} has no child")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reasons(verifier, answers, gold=GOLD):
    completions = [f"\\boxed{{{a}}}" for a in answers]
    return [g.reason for g in verifier.grade(completions, [gold] * len(answers))]


@pytest.mark.timeout(600)
def test_no_hostile_answer_is_right_and_the_counters_add_up():
    assert len(HOSTILE) >= 60
    with Verifier(timeout=0.5, workers=2) as verifier:
        grades = verifier.grade(list(HOSTILE.values()), [GOLD] * len(HOSTILE))
        by_name = dict(zip(HOSTILE, grades, strict=True))
        assert [name for name, g in by_name.items() if g.reward or g.reason == "right"] == []
        assert sum(verifier.counts.values()) == len(HOSTILE)
        assert {r: n for r, n in verifier.counts.items() if n} == {
            r: sum(g.reason == r for g in grades) for r in {g.reason for g in grades}
        }
        assert verifier.replaced >= verifier.counts["timeout"] >= 3
        early = {"no_box", "unparseable"}
        assert {n: by_name[n].reason for n in BROKEN if by_name[n].reason not in early} == {}
        assert not Path("hacked").exists()
        assert reasons(verifier, ["2+3", "2+2"]) == ["right", "wrong"]  # and work goes on


def test_a_hostile_answer_does_not_pass_even_where_it_is_near_the_gold():
    tiny = {
        "0": "6.2e-8",
        r"e^{-101}": r"e^{-100}",
        "1=2": "x=5",
        "8e-37": "7e-37",
        "a = 5": "x = 5",
    }
    with Verifier(timeout=20, workers=1) as verifier:
        completions = [f"\\boxed{{{a}}}" for a in tiny]
        assert {g.reason for g in verifier.grade(completions, list(tiny.values()))} == {"wrong"}


def test_extraction_is_linear_on_a_hostile_megabyte():
    for name in COMPLETIONS:  # the quadratic way would take hours here
        extract_boxed(COMPLETIONS[name] * 2)


# --- faults ------------------------------------------------------------------------------------


def test_a_worker_killed_between_answers_is_replaced():
    with Verifier(timeout=20, workers=1) as verifier:
        assert reasons(verifier, ["2+3"]) == ["right"]
        first = verifier.workers[0].process.pid
        os.killpg(first, signal.SIGKILL)
        assert reasons(verifier, ["1+4"]) == ["right"]
        assert verifier.workers[0].process.pid != first
        os.kill(server_of(verifier.workers[0].process.pid), signal.SIGKILL)
        assert reasons(verifier, ["7-2"]) == ["right"]
        assert verifier.replaced == 0  # no answer was to blame


def test_a_server_that_dies_over_an_answer_gives_no_verdict_and_is_replaced():
    with Verifier(timeout=600, workers=1) as verifier:
        assert reasons(verifier, ["2+3"]) == ["right"]
        supervisor = verifier.workers[0].process.pid
        server = server_of(supervisor)
        before = processor_seconds(server)

        def kill_at_work():
            while processor_seconds(server) < before + 0.3:
                time.sleep(0.02)
            os.kill(server, signal.SIGKILL)

        killer = threading.Thread(target=kill_at_work)
        killer.start()
        grades = verifier.grade([f"\\boxed{{{SLOW['hard integral']}}}"], [GOLD])
        killer.join()
        assert grades == [Grade(0.0, "unparseable")]
        assert (verifier.replaced, verifier.counts["unparseable"]) == (1, 1)
        assert reasons(verifier, ["1+4"]) == ["right"]
        assert verifier.workers[0].process.pid == supervisor  # only the server was forked anew


def test_a_worker_that_hangs_without_using_the_processor_is_replaced(monkeypatch):
    with Verifier(timeout=20, workers=1) as verifier:
        assert reasons(verifier, ["2+3"]) == ["right"]
        os.kill(server_of(verifier.workers[0].process.pid), signal.SIGSTOP)
        monkeypatch.setattr("hicra.study.problems.grading.CLOCK", 0.02)  # 0.4 s on the clock
        assert reasons(verifier, ["7-1"]) == ["timeout"]
        assert (verifier.replaced, verifier.workers[0].process) == (1, None)


def vanishes(group: int) -> bool:
    """Whether the process group is empty soon: who inherits a killed process reaps it in its own time."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_close_ends_the_processes():
    with Verifier(workers=2) as verifier:
        reasons(verifier, ["2+3", "2+4"])
        groups = [w.process.pid for w in verifier.workers if w.process]
        assert groups
    assert all(map(vanishes, groups))


def test_a_program_that_ends_leaves_no_worker_and_shows_it_no_token():
    program = (
        "from hicra.study.problems.grading import Verifier\n"
        "v = Verifier(workers=1)\n"
        "assert v.grade([r'\\boxed{2+3}'], ['5'])[0].reason == 'right'\n"
        "pid = v.workers[0].process.pid\n"
        "print(pid, 'hf_secret' in open(f'/proc/{pid}/environ').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_TOKEN": "hf_secret"},
        capture_output=True,
        text=True,
        check=True,
    )
    pid, leaked = done.stdout.split()
    assert leaked == "False"
    assert vanishes(int(pid))


def test_a_verifier_that_cannot_start_is_an_error_not_a_reward(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(workers=1) as verifier:
        with pytest.raises(RuntimeError, match="did not start.*install"):
            reasons(verifier, ["2+3"])
        assert sum(verifier.counts.values()) == 0
