"""Where the files that belong to the package lie."""

from pathlib import Path
import sys

from .errors import InputError


def find(folder):
    """
    Return the path of 'models', 'config' or 'launch'.

    A source tree has them beside the package, an installed package in share/pose_estimator of
    its ament prefix or of Python's.

    """
    beside = Path(__file__).resolve().parent.parent / folder
    if (beside.parent / 'package.xml').exists() and beside.is_dir():
        return beside
    places = [Path(sys.prefix) / 'share/pose_estimator']
    try:
        from ament_index_python.packages import get_package_share_directory
        places.insert(0, Path(get_package_share_directory('pose_estimator')))
    except (ImportError, LookupError):
        pass
    for place in places:
        if (place / folder).is_dir():
            return place / folder
    raise InputError(f'{folder}: expected in share/pose_estimator of a sourced workspace or '
                     'beside the package, got neither; source install/setup.bash')
