"""Where the files that belong to the package lie."""

from pathlib import Path

from .errors import InputError


def find(folder):
    """
    Return the path of 'models', 'config' or 'launch'.

    An installed package has them in share/pose_estimator of its ament prefix, a source tree
    beside the package.

    """
    beside = Path(__file__).resolve().parent.parent / folder
    if (beside.parent / 'package.xml').exists() and beside.is_dir():
        return beside
    try:
        from ament_index_python.packages import get_package_share_directory
        installed = Path(get_package_share_directory('pose_estimator')) / folder
    except (ImportError, LookupError):
        installed = None
    if installed is None or not installed.is_dir():
        raise InputError(f'{folder}: expected in share/pose_estimator of a sourced workspace '
                         f'or beside the package, got neither; source install/setup.bash')
    return installed
