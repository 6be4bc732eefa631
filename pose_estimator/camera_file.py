"""Camera calibrations as the ROS package camera_calibration writes them."""

from pathlib import Path

import numpy as np
import yaml

from .camera import PinholeCamera
from .errors import InputError


def load_camera(path, rectified=False):
    """
    Read a calibration.

    Parameters
    ----------
    path : path
        YAML with image_width, image_height, camera_matrix, distortion_model,
        distortion_coefficients and, for rectified images, projection_matrix.
    rectified : bool
        Whether the images are rectified: then projection_matrix holds, without distortion;
        otherwise camera_matrix with distortion.

    Returns
    -------
    camera : PinholeCamera

    Raises
    ------
    InputError
        For a file that is missing, no calibration, or of a camera that PinholeCamera refuses.

    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f'{path}: expected a camera calibration, got no such file') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{path}: expected a camera calibration (YAML), got {reason}') from error
    if not isinstance(values, dict):
        raise InputError(f'{path}: expected a camera calibration with image_width, '
                         f'camera_matrix, ..., got {type(values).__name__}')
    width, height = (_size(path, values, key) for key in ('image_width', 'image_height'))
    try:
        if rectified:
            return PinholeCamera(_matrix(values, 'projection_matrix', (3, 4))[:, :3], width,
                                 height)
        distortion = np.zeros(0)
        if values.get('distortion_coefficients') is not None:
            distortion = _matrix(values, 'distortion_coefficients', (1, -1)).ravel()
        model = str(values.get('distortion_model') or ('plumb_bob' if len(distortion) else ''))
        return PinholeCamera(_matrix(values, 'camera_matrix', (3, 3)), width, height,
                             distortion, model)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error


def _size(path, values, key):
    size = values.get(key)
    if not isinstance(size, int) or isinstance(size, bool):
        raise InputError(f'{path}: expected {key} in pixels, got {size!r}')
    return size


def _matrix(values, key, shape):
    """Return the matrix {rows, cols, data} under a key."""
    try:
        data = np.array(values[key]['data'], float)
        return data.reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        size = ' x '.join('n' if side < 0 else str(side) for side in shape)
        raise InputError(f'{key}: expected rows, cols and data of a {size} matrix, got '
                         f'{values.get(key)!r}') from error
