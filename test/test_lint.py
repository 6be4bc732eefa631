"""ament's linters over everything, and mypy over the core: everything but the nodes."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON_FOLDERS = ('pose_estimator', 'test', 'launch', 'msgs', 'requirements')
# The list of ament_pep257's own convention.
PEP257_IGNORED = 'D100,D101,D102,D103,D104,D105,D106,D107,D203,D212,D404'


def sources():
    """List the package's Python files that are the package's own."""
    folders = [ROOT / folder for folder in PYTHON_FOLDERS]
    return [ROOT / 'setup.py'] + [
        path for folder in folders for path in sorted(folder.rglob('*.py'))]


def check(module, *arguments):
    """Run a linter, and fail with what it says."""
    pytest.importorskip(module)
    step = subprocess.run(
        [sys.executable, '-m', module, *arguments], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    assert step.returncode == 0, f'{module}:\n{step.stdout}'


def test_flake8():
    check('flake8', *map(str, sources()))


def test_pep257():
    check('pydocstyle', f'--ignore={PEP257_IGNORED}', *map(str, sources()))


def test_public_things_of_the_package_have_docstrings():
    missing = []
    for path in sorted((ROOT / 'pose_estimator').rglob('*.py')):
        for node in ast.parse(path.read_text()).body:
            kinds = (ast.ClassDef, ast.FunctionDef)
            if isinstance(node, kinds) and not node.name.startswith('_'):
                if ast.get_docstring(node) is None:
                    missing.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}')
    assert not missing, '\n'.join(missing)


@pytest.mark.slow
def test_mypy_on_the_core():
    check('mypy')
