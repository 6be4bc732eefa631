"""
Run all faults in long form and write what was survived, and at which figures, into a document.

    python test/reliability.py docs/reliability.md [expression of pytest's -k]

"""

from datetime import date
import os
from pathlib import Path
import platform
import sys
import time

from pose_estimator.devices import processor_name
import pytest

HERE = Path(__file__).resolve().parent
FILES = ('test_faults.py', 'test_bad_messages.py', 'test_lifecycle.py', 'test_hosts.py')
INTRODUCTION = """# Reliability

Faults injected into running nodes, each in processes of its own over DDS. Networks are replaced by
ones that know the answer, so that every pose published during a fault can be compared with the
true one. Survived means: no crash, no hang, no wrong pose, the diagnostics named the cause within
their deadline, and correct poses came afterwards.

`make faults` writes this file; `make test` runs the same tests in short, with deadlines ten times
as long. `make soak` writes [its own figures](soak.md).

"""


class Recorder:
    """Pytest plugin that keeps outcome, time and figures of each test."""

    def __init__(self):
        self.tests = {}

    def pytest_runtest_logreport(self, report):
        """Note a test's outcome."""
        if report.when == 'call' or report.outcome != 'passed':
            reason = report.longrepr[2] if report.skipped else ''
            self.tests[report.nodeid] = (report.outcome, report.duration, reason,
                                         report.user_properties)


def document(tests, seconds):
    """Return the document."""
    survived = sum(outcome == 'passed' for outcome, _, _, _ in tests.values())
    skipped = sum(outcome == 'skipped' for outcome, _, _, _ in tests.values())
    lines = [INTRODUCTION + f'{date.today()}, {os.cpu_count()} cores of {processor_name()}, '
             f'shared with other jobs (load {os.getloadavg()[2]:.1f}), Python '
             f'{platform.python_version()}: {survived} of {len(tests) - skipped} survived, '
             f'{skipped} not tried, in {seconds / 60:.0f} minutes.', '',
             '| fault (test) | outcome | seconds | figures |', '|---|---|---|---|']
    for name, (outcome, duration, reason, figures) in tests.items():
        file, _, test = name.partition('::')
        told = '; '.join(f'{key}: {value}' for key, value in figures)
        outcome = {'passed': 'survived', 'skipped': 'not tried'}.get(outcome, '**FAILED**')
        label = test.removeprefix('test_').replace('_', ' ').replace('|', '\\|')
        lines.append(f'| {label} ({Path(file).stem}) | {outcome} | {duration:.1f} '
                     f'| {told or reason.removeprefix("Skipped: ")} |')
    return '\n'.join(lines) + '\n'


def main():
    """Run the tests and write the document."""
    output = Path(sys.argv[1])
    os.environ['POSE_ESTIMATOR_FAULTS'] = 'long'
    recorder, began = Recorder(), time.monotonic()
    chosen = ['-k', sys.argv[2]] if len(sys.argv) > 2 else []
    files = [str(HERE / file) for file in FILES if (HERE / file).exists()]
    code = pytest.main(['-q', *files, *chosen], plugins=[recorder])
    output.write_text(document(recorder.tests, time.monotonic() - began))
    print(f'written: {output}')
    return code


if __name__ == '__main__':
    sys.exit(main())
