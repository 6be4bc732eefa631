"""
Build the message packages that PyPI's ROS 2 wheels lack into the virtual environment.

Run by the environment's own Python: ``.venv/bin/python msgs/build.py``. The wheels carry the
code generators; cmake and a C++ compiler come from the machine. What is built lands in the
environment, as if it had been part of the wheels, so nothing has to be sourced.
"""

import os
from pathlib import Path
import re
import subprocess
import sys
import sysconfig
import tempfile

PACKAGES = ('tf2_msgs', 'vision_msgs')
HERE = Path(__file__).resolve().parent


class BuildError(Exception):
    """Says in one line what stopped the build."""


def repair_wheel_exports(prefix):
    """
    Point the wheels' cmake exports at this machine's Python and NumPy headers.

    The exported targets of the generated Python modules name the include folders of the machine
    that the wheels were built on (``/opt/python/...``); cmake refuses folders that do not exist.

    """
    import numpy

    folders = (
        (r'/opt/python/[^;"]*/numpy/_core/include', numpy.get_include()),
        (r'/opt/python/[^;"]*/include/python3\.\d+', sysconfig.get_path('include')),
    )
    for export in prefix.glob('share/*/cmake/*rosidl_generator_pyExport.cmake'):
        text = repaired = export.read_text()
        for pattern, folder in folders:
            repaired = re.sub(pattern, lambda _, folder=folder: folder, repaired)
        if repaired != text:
            export.write_text(repaired)


def build(package, prefix, folder):
    """Configure, compile and install one message package."""
    log = folder / f'{package}.log'
    environment = {
        name: value for name, value in os.environ.items()
        if name not in ('PYTHONPATH', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH')}
    environment['PATH'] = os.pathsep.join((str(prefix / 'bin'), environment['PATH']))
    steps = (
        ('cmake', '-S', HERE / package, '-B', folder / package, '-G', 'Unix Makefiles',
         f'-DCMAKE_PREFIX_PATH={prefix}', f'-DCMAKE_INSTALL_PREFIX={prefix}',
         f'-DPython3_EXECUTABLE={sys.executable}', f'-DPYTHON_EXECUTABLE={sys.executable}',
         '-DBUILD_TESTING=OFF', '-DCMAKE_BUILD_TYPE=Release', '-Wno-dev'),
        ('cmake', '--build', folder / package, '--parallel', str(os.cpu_count() or 1)),
        ('cmake', '--install', folder / package),
    )
    with open(log, 'w') as output:
        for step in steps:
            code = subprocess.call(
                [str(word) for word in step], env=environment, stdout=output, stderr=output)
            if code:
                break
    if code:
        lines = log.read_text(errors='replace').splitlines()
        sys.stderr.write('\n'.join(lines[-30:]) + '\n')
        raise BuildError(f'{package} did not build; the last lines of the build are above')


def main():
    """Build and install every package; return the exit code."""
    if sys.prefix == sys.base_prefix:
        print('error: run this with the Python of a virtual environment', file=sys.stderr)
        return 2
    prefix = Path(sys.prefix)
    try:
        repair_wheel_exports(prefix)
        with tempfile.TemporaryDirectory(prefix='pose_estimator_msgs_') as folder:
            for package in PACKAGES:
                print(f'      building {package}', flush=True)
                build(package, prefix, Path(folder))
    except BuildError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
