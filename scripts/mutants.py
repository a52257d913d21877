"""Plants small bugs one at a time and runs the test that should notice each: `make mutants`.

`test/mutants.toml` names for each bug its file, the text that is replaced, and the one test that holds the right value.
A bug that its test does not notice, or that it notices only by hanging or because nothing loads any more, has survived,
and the exit code is 1. All happens in copies of the checkout. Python's tests are run in forks of a process that has
imported torch, which takes longer than most of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LIST = PROJECT / "test" / "mutants.toml"
TIMEOUT_S = 240  # a busy machine takes a minute for the slowest of these tests
# Neither holds code of ours, which is another in each copy.
PRELOADED = [
    "torch",
    "torch.optim.swa_utils",
    "torch._dynamo",
    "numpy",
    "PIL.Image",
    "av",
    "safetensors.torch",
    "pytest",
]
JEST = ["node", "--experimental-vm-modules", "--disable-warning=ExperimentalWarning", "node_modules/jest/bin/jest.js"]


@dataclass(frozen=True)
class Mutant:
    what: str
    file: str
    old: str
    new: str
    test: str  # a node of pytest, or `FILE.test.ts NAME` of jest

    def find_fault(self) -> str | None:
        """Returns why this bug cannot be planted any more, None when it can."""
        path, test = PROJECT / self.file, PROJECT / self.test.partition(" ")[0].partition("::")[0]
        if not path.is_file() or not test.is_file():
            return f"{self.test if path.is_file() else self.file}: no such file"
        count = path.read_text().count(self.old)
        if count != 1:
            return f"{self.file}: the text to replace stands there {count} times, not once: {self.old!r}"
        name = self.test.partition(" ")[2] or self.test.rpartition("::")[2].partition("[")[0]
        return None if name in test.read_text() else f"{self.test}: that file has no such test"


def run_tests(copy: Path, tests: list[str], timeout_s: float) -> tuple[str, str]:
    """Returns passed, failed, hung or broken (nothing could be run), and what was printed. The tests are all of pytest,
    or all of one file of jest; nothing that they started is left running."""
    return (run_pytest if "::" in tests[0] else run_jest)(copy, tests, timeout_s)


def run_jest(copy: Path, tests: list[str], timeout_s: float) -> tuple[str, str]:
    names = "|".join(re.escape(test.partition(" ")[2]) for test in tests)
    process = subprocess.Popen(
        [*JEST, "--runTestsByPath", tests[0].partition(" ")[0], "--testNamePattern", names],
        cwd=copy,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "hung", process.communicate()[0]
    if "Test suite failed to run" in output:
        return "broken", output
    return ("passed" if process.returncode == 0 else "failed"), output


def run_pytest(copy: Path, tests: list[str], timeout_s: float) -> tuple[str, str]:
    log = copy.with_suffix(".log")
    process = multiprocessing.get_context("forkserver").Process(target=be_pytest, args=(copy, tests, log))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return "hung", log.read_text()
    return {0: "passed", 1: "failed"}.get(process.exitcode or 0, "broken"), log.read_text()


def be_pytest(copy: Path, tests: list[str], log: Path) -> None:
    """Runs tests in this process, which ends with pytest's exit code: 1 is a failed test, others are no answer."""
    import pytest

    os.setsid()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "py")  # of processes that a test starts: else they had the checkout's own
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def copy_checkout(folder: Path) -> None:
    """Copies what git knows and does not ignore; what was installed is linked to."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    for name in filter(None, files.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    for name in (".venv", "node_modules"):
        (folder / name).symlink_to(PROJECT / name)


def judge(mutant: Mutant, copy: Path) -> str | None:
    """Returns what is wrong, None when the bug was noticed. The copy is then as it was."""
    path = copy / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        outcome, _ = run_tests(copy, [mutant.test], TIMEOUT_S)
    finally:
        path.write_text(text)
    wrong = {"passed": "survived", "hung": "is noticed only because its test hangs", "broken": "keeps all from loading"}
    return wrong.get(outcome)


def group_tests(mutants: list[Mutant]) -> list[list[str]]:
    """Returns the tests of each file: they share one start."""
    groups: dict[str, list[str]] = {}
    for test in dict.fromkeys(mutant.test for mutant in mutants):
        groups.setdefault(test.partition(" ")[0].partition("::")[0], []).append(test)
    return list(groups.values())


def check_tests(tests: list[str], copy: Path) -> str | None:
    """Returns which tests fail without any bug, with what they print: they could not tell anything."""
    outcome, output = run_tests(copy, tests, TIMEOUT_S + 60 * len(tests))
    return None if outcome == "passed" else f"without any bug planted {outcome}: {' '.join(tests)}\n{output[-3000:]}"


@contextmanager
def borrow(copies: queue.SimpleQueue[Path]) -> Iterator[Path]:
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="REGEX", default="", help="bugs whose name, file or test matches")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="copies at work side by side")
    parser.add_argument("--check", action="store_true", help="only see that every bug can be planted and has its test")
    args = parser.parse_args()
    every = [Mutant(**entry) for entry in tomllib.loads(LIST.read_text())["mutant"]]
    mutants = [mutant for mutant in every if re.search(args.only, f"{mutant.what} {mutant.file} {mutant.test}")]
    faults = [fault for mutant in mutants if (fault := mutant.find_fault())]
    if faults or args.check:
        print("\n".join(faults) or f"{len(mutants)} bugs can be planted")
        return 1 if faults else 0

    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(args.jobs):
            copy_checkout(Path(scratch, str(number)))
            copies.put(Path(scratch, str(number)))

        def check(tests: list[str]) -> str | None:
            with borrow(copies) as copy:
                return check_tests(tests, copy)

        def work(mutant: Mutant) -> bool:
            begin = time.monotonic()
            with borrow(copies) as copy:
                problem = judge(mutant, copy)
            seconds = f"{time.monotonic() - begin:.0f} s"
            print(f"{problem or 'noticed'}: {mutant.what} ({mutant.file}; {mutant.test}; {seconds})", flush=True)
            return problem is None

        with ThreadPoolExecutor(args.jobs) as pool:
            broken = [problem for problem in pool.map(check, group_tests(mutants)) if problem]
            if broken:
                print("\n".join(broken))
                return 1
            noticed = list(pool.map(work, mutants))
    print(f"{sum(noticed)} passed, {len(noticed) - sum(noticed)} failed")
    return 0 if all(noticed) else 1


if __name__ == "__main__":
    sys.exit(main())
