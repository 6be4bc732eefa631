"""
Data sets and result files of the BOP benchmark (Hodan et al., bop.felk.cvut.cz).

The only module that knows millimetres: what it gives and takes is in metres.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
import json
from pathlib import Path
from typing import NamedTuple, Optional

import cv2
import numpy as np

from .camera import PinholeCamera
from .errors import InputError
from .geometry import Pose
from .mesh import load_mesh
from .object_model import bop_symmetries, Symmetries

MM = 0.001
TARGETS = 'test_targets_bop19.json'
RESULT_COLUMNS = ('scene_id', 'im_id', 'obj_id', 'score', 'R', 't', 'time')
# Errors are measured at every n-th vertex of the model, so that about this many are used.
ERROR_POINTS = 1500
# Instances of which a smaller share is seen are no targets.
LEAST_VISIBLE = 0.1


class Target(NamedTuple):
    """An object that is to be found in an image."""

    scene_id: int
    image_id: int
    object_id: int


@dataclass(frozen=True, eq=False)
class Truth:
    """
    One object of an image as annotated.

    Attributes
    ----------
    object_id : int
    pose : Pose
        Model to camera, metres, with an exact rotation.
    given_pose : Pose
        The same with the matrix as the file has it, which may be off orthonormal by less than
        1 %; BOP's errors are measured against this one.
    box_visible : array, shape (4,), or None
        Box of the visible part, see Instance.box.
    pixels_visible : int or None
    visible_fraction : float or None
        Visible pixels over those of the whole silhouette.

    """

    object_id: int
    pose: Pose
    given_pose: Pose
    box_visible: Optional[np.ndarray] = None
    pixels_visible: Optional[int] = None
    visible_fraction: Optional[float] = None


@dataclass(frozen=True, eq=False)
class Result:
    """
    One estimate, a row of a result file.

    Attributes
    ----------
    scene_id, image_id, object_id : int
    score : float
    pose : Pose or None
        Model to camera, metres; None where the file has no finite numbers.
    time : float
        Seconds for the whole image, -1 where unknown.

    """

    scene_id: int
    image_id: int
    object_id: int
    score: float
    pose: Optional[Pose]
    time: float = -1.0


class BopDataset:
    """
    A data set in BOP's layout.

    Read are SPLIT/SCENE/{rgb,gray}/IMAGE.{png,jpg,...}, scene_camera.json, scene_gt.json,
    scene_gt_info.json, mask_visib/, models/, models_eval/ and test_targets_bop19.json, each
    only when it is asked for.

    Parameters
    ----------
    path : path
    split : str
        Folder of the scenes.

    Raises
    ------
    InputError
        If there are no such scenes.

    """

    def __init__(self, path, split='test'):
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f'{self.path}: expected a BOP data set, got no such folder')
        scenes = sorted(self.path.glob(f'{split}/*/scene_camera.json'))
        self._folders = {int(one.parent.name): one.parent for one in scenes
                         if one.parent.name.isdigit()}
        if not self._folders:
            raise InputError(f'{self.path}: expected a BOP data set with '
                             f'{split}/000001/scene_camera.json or the like, got none')

    @property
    def name(self):
        """Name of the folder."""
        return self.path.resolve().name

    def targets(self):
        """
        Return what is to be found, a list of Target in the file's order.

        Raises
        ------
        InputError
            If the data set has no list of targets.

        """
        return [target for target, _ in self._listed()]

    def _listed(self):
        """Return (Target, number of instances) of each entry of the list of targets."""
        path = self.path / TARGETS
        try:
            return [(Target(int(entry['scene_id']), int(entry['im_id']), int(entry['obj_id'])),
                     int(entry.get('inst_count', 1))) for entry in _read_json(path, list)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: expected a list of scene_id, im_id and obj_id, got '
                             f'{type(error).__name__}: {error}') from error

    def instance_counts(self):
        """Return {Target: number of instances that are asked for}."""
        return dict(self._listed())

    def images(self):
        """Return (scene_id, image_id) of the images of the targets; of all, if it lists none."""
        if (self.path / TARGETS).exists() and self.targets():
            return sorted({(one.scene_id, one.image_id) for one in self.targets()})
        return sorted((scene, int(image)) for scene in self._folders
                      for image in self._scene(scene, 'scene_camera.json'))

    def image_path(self, scene_id, image_id):
        """Return the path of an image's file."""
        folder = self._folder(scene_id)
        for kind in ('rgb', 'gray'):
            found = sorted((folder / kind).glob(f'{image_id:06d}.*'))
            if found:
                return found[0]
        raise InputError(f'{folder}: expected rgb/{image_id:06d}.png or .jpg, got none')

    def image(self, scene_id, image_id):
        """Return an image, shape (height, width, 3), uint8, RGB."""
        path = self.image_path(scene_id, image_id)
        # The intrinsics count pixels as stored.
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise InputError(f'{path}: expected an image, got a file that cannot be read as one')
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def camera(self, scene_id, image_id, width, height):
        """Return the PinholeCamera of one image of this size."""
        path = self._folder(scene_id) / 'scene_camera.json'
        entry = self._entry(scene_id, image_id, 'scene_camera.json')
        try:
            matrix = np.array(entry['cam_K'], float).reshape(3, 3)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: expected cam_K of 9 numbers for image {image_id}, got '
                             f'{type(error).__name__}: {error}') from error
        return PinholeCamera(matrix, width, height)

    def truths(self, scene_id, image_id):
        """Return the annotated objects of an image, a list of Truth in the file's order."""
        path = self._folder(scene_id) / 'scene_gt.json'
        entries = self._entry(scene_id, image_id, 'scene_gt.json')
        infos = [{}] * len(entries)
        if (path.parent / 'scene_gt_info.json').exists():
            infos = self._entry(scene_id, image_id, 'scene_gt_info.json')
        try:
            return [_truth(entry, info) for entry, info in zip(entries, infos)]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: expected cam_R_m2c, cam_t_m2c and obj_id for image '
                             f'{image_id}, got {type(error).__name__}: {error}') from error

    def visible_mask(self, scene_id, image_id, index):
        """Return the mask (height, width) of truth number `index`; None if it has no file."""
        path = self._folder(scene_id) / 'mask_visib' / f'{image_id:06d}_{index:06d}.png'
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
        return None if mask is None else mask > 0

    def object_ids(self):
        """Return the numbers of the objects that models/ has a mesh of."""
        return sorted(int(path.stem[4:]) for path in self.path.glob('models/obj_*.ply')
                      if path.stem[4:].isdigit())

    def mesh(self, object_id):
        """Return the Mesh of models/, in metres."""
        return load_mesh(self.path / 'models' / f'obj_{object_id:06d}.ply', MM)

    def error_points(self, object_id):
        """Return the points (N, 3) in metres at which errors are measured."""
        path = self.path / 'models_eval' / f'obj_{object_id:06d}.ply'
        vertices = load_mesh(path, MM).vertices
        return vertices[::max(1, len(vertices) // ERROR_POINTS)]

    def diameter(self, object_id):
        """Return the diameter of an object in metres."""
        path = self._models_info()
        entries = _read_json(path, dict)
        try:
            return float(entries[str(object_id)]['diameter']) * MM
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: expected a diameter of object {object_id}, got '
                             f'{type(error).__name__}: {error}') from error

    def names(self):
        """Return {number: name} of the objects, where models_info.json has names."""
        path = self._models_info()
        entries = _read_json(path, dict) if path.is_file() else {}
        return {int(number): entry['name'] for number, entry in entries.items()
                if number.isdigit() and 'name' in entry}

    def symmetries(self, object_id):
        """Return the Symmetries of an object."""
        return Symmetries.from_dict(bop_symmetries(self._models_info(), object_id, 'm'), 1.0,
                                    f'models_info.json, object {object_id}')

    def _models_info(self):
        return self.path / 'models_eval' / 'models_info.json'

    def _folder(self, scene_id):
        if scene_id not in self._folders:
            raise InputError(f'{self.path}: expected scene {scene_id}, got only '
                             f'{", ".join(map(str, sorted(self._folders)))}')
        return self._folders[scene_id]

    def _scene(self, scene_id, file_name):
        return _read_json(self._folder(scene_id) / file_name, dict)

    def _entry(self, scene_id, image_id, file_name):
        scene = self._scene(scene_id, file_name)
        if str(image_id) not in scene:
            raise InputError(f'{self._folder(scene_id) / file_name}: expected image {image_id}, '
                             'got none')
        return scene[str(image_id)]


def _truth(entry, info):
    rotation = np.array(entry['cam_R_m2c'], float).reshape(3, 3)
    translation = np.array(entry['cam_t_m2c'], float).reshape(3) * MM
    left, _, right = np.linalg.svd(rotation)
    box = None
    if 'bbox_visib' in info:
        x, y, width, height = info['bbox_visib']
        box = np.array([x, y, x + width, y + height], float) - 0.5
    return Truth(int(entry['obj_id']), Pose(left @ right, translation),
                 Pose(rotation, translation), box, info.get('px_count_visib'),
                 info.get('visib_fract'))


@lru_cache(maxsize=32)
def _read_json_at(path, kind, changed):
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: expected JSON, got {error}') from error
    if not isinstance(values, kind):
        raise InputError(f'{path}: expected a JSON {kind.__name__}, '
                         f'got a {type(values).__name__}')
    return values


def _read_json(path, kind):
    """Return what a file holds; read again only once it has changed."""
    if not path.is_file():
        raise InputError(f'{path}: expected a file, got none')
    return _read_json_at(path, kind, path.stat().st_mtime_ns)


def write_results(path, results):
    """Write a sequence of Result as BOP's CSV: R row by row, t in millimetres."""
    def numbers(array):
        return ' '.join(repr(float(value)) for value in np.ravel(array))

    try:
        with open(path, 'w', newline='') as stream:
            rows = csv.writer(stream, lineterminator='\n')
            rows.writerow(RESULT_COLUMNS)
            for one in results:
                rows.writerow([one.scene_id, one.image_id, one.object_id,
                               repr(float(one.score)), numbers(one.pose.R_m2c),
                               numbers(one.pose.t_m2c / MM), repr(float(one.time))])
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}') from error


def read_results(path):
    """
    Read BOP's CSV.

    Returns
    -------
    results : list of Result

    Raises
    ------
    InputError
        For a file that is missing or no result file, naming the line.

    """
    results = []
    try:
        with open(path, newline='') as stream:
            rows = csv.DictReader(stream)
            for row in rows:
                try:
                    results.append(_result(row))
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise InputError(f'{path}, line {rows.line_num}: expected '
                                     f'{",".join(RESULT_COLUMNS)}, got '
                                     f'{type(error).__name__}: {error}') from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path}: expected a result file of BOP, got {error}') from error
    return results


def _result(row):
    rotation = np.array(row['R'].split(), float).reshape(3, 3)
    translation = np.array(row['t'].split(), float).reshape(3) * MM
    score = float(row['score'])
    if not np.isfinite(score):
        raise ValueError('a score that is not finite')
    is_finite = np.isfinite(rotation).all() and np.isfinite(translation).all()
    return Result(int(row['scene_id']), int(row['im_id']), int(row['obj_id']), score,
                  Pose(rotation, translation) if is_finite else None,
                  float(row.get('time') or -1))
