"""
Pin everything that core.txt, train.txt, test.txt and ros.txt pull in, for one Python version.

``python3.12 requirements/lock.py`` writes ``lock-3.12.txt``. Nothing is installed: pip resolves
and reports. The locks hold names and versions only, so any package index can serve them.

"""

import json
from pathlib import Path
import subprocess
import sys
import tempfile

HERE = Path(__file__).resolve().parent
SOURCES = ('core.txt', 'train.txt', 'test.txt', 'ros.txt')
# PyTorch and torchvision only work as a matching pair. NumPy and SciPy are held back so that
# every Python gets what Python 3.11, the one that is tested, gets.
CONSTRAINTS = (
    'torch==2.15.0', 'torchvision==0.29.2', 'opencv-python-headless==5.0.0.*',
    'numpy==2.4.*', 'scipy==1.17.*')
# Published as source only, and pure Python; everything else must have a wheel.
SOURCE_ONLY = ('empy', 'flake8-quotes')


def resolve(folder):
    """Return the sorted ``name==version`` lines that pip would install."""
    constraints = folder / 'constraints.txt'
    constraints.write_text('\n'.join(CONSTRAINTS) + '\n')
    report = folder / 'report.json'
    command = [
        sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--quiet',
        '--only-binary=:all:', f'--no-binary={",".join(SOURCE_ONLY)}',
        '--constraint', str(constraints), '--report', str(report)]
    for source in SOURCES:
        command += ['--requirement', str(HERE / source)]
    subprocess.run(command, check=True)
    packages = json.loads(report.read_text())['install']
    return sorted(
        f"{package['metadata']['name']}=={package['metadata']['version'].split('+')[0]}"
        for package in packages)


def main():
    """Write the lock of the Python that runs this."""
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    with tempfile.TemporaryDirectory() as folder:
        lines = resolve(Path(folder))
    lock = HERE / f'lock-{version}.txt'
    lock.write_text('\n'.join((
        f'# Written by requirements/lock.py with Python {version}; do not edit by hand.',
        '--only-binary :all:',
        f'--no-binary {",".join(SOURCE_ONLY)}',
        *lines, '')))
    print(f'{lock}: {len(lines)} packages')


if __name__ == '__main__':
    main()
