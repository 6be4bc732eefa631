"""
Set up the virtual environment that the Makefile runs everything in.

``python3 requirements/install.py .venv`` makes the environment, installs the lock of the running
Python, and builds the message packages of ``msgs/``. It only needs the standard library. A file
in the environment notes what is finished, so a second run ends at once and a run after an
interruption mends what the first one left.

"""

import fcntl
import hashlib
import importlib.util
import json
from pathlib import Path
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ((3, 11), (3, 12), (3, 13))
OTHER_ROAD = 'use the package inside a ROS 2 distribution instead: docs/installation.md'
NOTE = 'pose_estimator_setup.json'
# Not the Python of an activated environment, which may be the very one that is remade.
PYTHON = getattr(sys, '_base_executable', sys.executable)
CHECK = (
    'import cv2, torch, torchvision, rclpy; from tf2_msgs.msg import TFMessage; '
    'from vision_msgs.msg import Detection2DArray; import torchvision.ops; '
    'torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)')


class SetupError(Exception):
    """Says in one line what stopped the set-up and what to do about it."""


def check_platform():
    """Refuse what the wheels do not exist for."""
    here = f'{platform.system()} {platform.machine()}, Python {platform.python_version()}'
    if sys.platform != 'linux' or platform.machine() != 'x86_64':
        raise SetupError(f'this set-up is for x86-64 Linux, and this is {here}; {OTHER_ROAD}')
    if sys.version_info[:2] not in PYTHONS or sys.implementation.name != 'cpython':
        raise SetupError(
            f'this set-up needs CPython 3.11 to 3.13, and this is {here}; '
            f'set PYTHON=/path/to/python3.11, or {OTHER_ROAD}')


def check_tools():
    """Name what the machine lacks before anything large is downloaded."""
    apt = 'Debian, Ubuntu: sudo apt install'
    for tool, package in (
            ('cc', 'build-essential'), ('c++', 'build-essential'),
            ('make', 'build-essential'), ('cmake', 'cmake')):
        if shutil.which(tool) is None:
            kind = {'cc': 'a C compiler (cc)', 'c++': 'a C++ compiler (c++)'}.get(tool, tool)
            raise SetupError(
                f'{kind} is not on the PATH, and message packages are compiled here '
                f'({apt} {package})')
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        raise SetupError(
            f"Python's headers are missing ({header}), and message packages are compiled here "
            f'({apt} {version}-dev)')
    if not (importlib.util.find_spec('venv') and importlib.util.find_spec('ensurepip')):
        raise SetupError(
            f'{PYTHON} has no venv module ({apt} {version}-venv)')


def digest(*paths):
    """Return a hash of the names and contents of files, and of the files in folders."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob('*'))
        for file in files:
            if file.is_file() and '__pycache__' not in file.parts:
                total.update(f'{file.relative_to(ROOT)}\n'.encode())
                total.update(file.read_bytes())
    return total.hexdigest()[:16]


def read_note(venv):
    """Return what is finished in an environment, or refuse a folder that is something else."""
    if not venv.exists() or not any(venv.iterdir()):
        return {}
    if not (venv / NOTE).is_file():
        raise SetupError(
            f'{venv} exists and was not made by this set-up: '
            'move it away, or set POSE_ESTIMATOR_VENV to another folder')
    try:
        return dict(json.loads((venv / NOTE).read_text()))
    except ValueError:
        return {}


def write_note(venv, note):
    """Record what is finished."""
    (venv / NOTE).write_text(json.dumps(note) + '\n')


def make_venv(venv):
    """Make an empty environment; what an interrupted run left there goes."""
    if venv.exists():
        shutil.rmtree(venv)
    venv.mkdir(parents=True)
    write_note(venv, {})
    step = subprocess.run(
        [PYTHON, '-m', 'venv', str(venv)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    if step.returncode:
        sys.stderr.write(step.stdout)
        raise SetupError(f'{PYTHON} -m venv {venv} failed, see above')


def install_packages(python, lock):
    """Install the lock with pip, whose progress bars stay visible."""
    pip = [str(python), '-m', 'pip', 'install', '--disable-pip-version-check']
    # One small package first: pip takes minutes to give up on an index that does not answer.
    probe = next(line for line in lock.read_text().splitlines() if line.startswith('tqdm=='))
    step = subprocess.run(
        [*pip, '--dry-run', '--ignore-installed', '--no-deps', '--retries', '1', '--timeout',
         '20', probe], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if step.returncode:
        lines = [line for line in step.stdout.splitlines() if line.strip()]
        sys.stderr.write('\n'.join(lines[-4:]) + '\n')
        raise SetupError(
            f'the package index does not answer with {probe}: check the network, the proxy, and '
            f'the index that pip is set to (`{python} -m pip config list`, PIP_INDEX_URL)')
    if subprocess.call([*pip, '--requirement', str(lock)]):
        raise SetupError('pip could not install the packages, see above; then run this again')


def run(venv):
    """Bring the environment up to date, one process at a time."""
    check_platform()
    name = hashlib.sha256(str(venv).encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f'pose_estimator_setup_{name}.lock', 'w') as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f'waiting for another set-up of {venv}', flush=True)
            fcntl.flock(turn, fcntl.LOCK_EX)
        update(venv)


def update(venv):
    """Bring the environment up to date."""
    lock = ROOT / 'requirements' / f'lock-{sys.version_info.major}.{sys.version_info.minor}.txt'
    wanted = {
        'python': platform.python_version(), 'packages': digest(lock),
        'messages': digest(lock, ROOT / 'msgs'), 'location': str(venv)}
    note = read_note(venv)
    if note == wanted:
        return
    check_tools()
    python = venv / 'bin' / 'python'
    # A new lock is installed over the old one; anything else that changed starts afresh.
    kept = all(note.get(name) == wanted[name] for name in ('python', 'location'))
    if not (kept and 'packages' in note and python.exists()):
        print(f'[1/4] virtual environment {venv}, Python {wanted["python"]}', flush=True)
        make_venv(venv)
        note = {}
    if note.get('packages') != wanted['packages']:
        print(
            f'[2/4] packages of requirements/{lock.name} (PyTorch is large: the first time about '
            '3 GB to download and 6 GB on disk; pip is silent for a minute while it unpacks)',
            flush=True)
        write_note(venv, {})
        install_packages(python, lock)
        note = {name: wanted[name] for name in ('python', 'location', 'packages')}
        write_note(venv, note)
    print('[3/4] message packages, compiled here (half a minute)', flush=True)
    if subprocess.call([str(python), str(ROOT / 'msgs' / 'build.py')]):
        raise SetupError('the message packages could not be built, see above')
    print('[4/4] trial import of ROS 2, PyTorch and OpenCV', flush=True)
    if subprocess.call([str(python), '-c', CHECK]):
        write_note(venv, {})
        raise SetupError('the environment does not work, see above; run this again to remake it')
    write_note(venv, wanted)
    print(f'set up: {venv}', flush=True)


def main():
    """Run from the command line; return the exit code."""
    if len(sys.argv) != 2:
        print('usage: python3 requirements/install.py FOLDER', file=sys.stderr)
        return 2
    try:
        run(Path(sys.argv[1]).absolute())
    except SetupError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted; the next run goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
