"""Known objects: mesh, keypoints, size and symmetries, and the YAML that describes one."""

from dataclasses import dataclass, field, replace
import json
from pathlib import Path
import re
from typing import Optional

import numpy as np
import yaml

from .demo.meshes import builtin_mesh
from .errors import InputError
from .geometry import Pose
from .mesh import farthest_points, load_mesh, mesh_diameter, sample_surface

UNITS = {'m': 1.0, 'cm': 0.01, 'mm': 0.001, 'in': 0.0254}
# An object of a picking robot; anything else is most often a wrong unit.
PLAUSIBLE_DIAMETER = (0.005, 5.0)
YAML_KEYS = ('name', 'mesh', 'unit', 'bop_id', 'keypoints', 'symmetries', 'shape_symmetries')
DEFAULT_KEYPOINTS = 32


@dataclass(frozen=True)
class Symmetries:
    """
    Transforms of the model frame that change nothing that can be seen, in BOP's notation.

    Attributes
    ----------
    discrete : tuple of Pose
        Without the identity.
    continuous : tuple of (axis, offset)
        Unit vector and a point of the axis in metres, each a tuple of 3.

    """

    discrete: tuple = ()
    continuous: tuple = ()

    @classmethod
    def from_dict(cls, description, unit_scale=1.0, name='symmetries'):
        """Read {'discrete': [16 numbers, ...], 'continuous': [{'axis':, 'offset':}, ...]}."""
        description = description or {}
        unknown = set(description) - {'discrete', 'continuous'}
        if unknown:
            raise InputError(f'{name}: expected the keys discrete and continuous, '
                             f'got {sorted(unknown)}')
        try:
            discrete = []
            for flat in description.get('discrete') or []:
                matrix = np.asarray(flat, np.float64).reshape(4, 4).copy()
                matrix[:3, 3] *= unit_scale
                discrete.append(Pose.from_matrix(matrix))
            continuous = []
            for entry in description.get('continuous') or []:
                axis = np.asarray(entry['axis'], np.float64).reshape(3)
                offset = np.asarray(entry.get('offset', (0, 0, 0)), np.float64).reshape(3)
                if not (np.isfinite([axis, offset]).all() and axis.any()):
                    raise ValueError(f'got axis {axis} and offset {offset}')
                axis = axis / np.linalg.norm(axis)
                continuous.append((tuple(axis.tolist()), tuple((offset * unit_scale).tolist())))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f'{name}: expected discrete: lists of 16 numbers (4 x 4 row by '
                             f'row) and continuous: axis and offset of 3 numbers each; '
                             f'{error}') from error
        if len(continuous) > 1:
            raise InputError(f'{name}: expected at most one continuous axis, got '
                             f'{len(continuous)}; a ball has no pose to estimate')
        return cls(tuple(discrete), tuple(continuous))

    def to_dict(self):
        """Return what from_dict reads, in metres."""
        return {'discrete': [pose.matrix.ravel().tolist() for pose in self.discrete],
                'continuous': [{'axis': list(axis), 'offset': list(offset)}
                               for axis, offset in self.continuous]}

    def transforms(self, steps=100):
        """
        Return all transforms as poses, the identity first, continuous ones sampled.

        Parameters
        ----------
        steps : int
            Samples of a full turn about a continuous axis.

        """
        found = [Pose.identity(), *self.discrete]
        for axis, offset in self.continuous:
            offset = np.array(offset)
            turns = []
            for angle in np.arange(steps) * 2 * np.pi / steps:
                turn = Pose.from_rotvec(np.array(axis) * angle, np.zeros(3))
                turns.append(Pose(turn.R_m2c, offset - turn.R_m2c @ offset))
            found = [base.compose(turn) for base in found for turn in turns]
        return found


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """
    What the estimator knows of an object; all that a checkpoint carries of it.

    Attributes
    ----------
    name : str
    keypoints : array, shape (K, 3)
        Model frame, metres.
    keypoint_names : tuple of str
    bounds : array, shape (2, 3)
        Lowest and highest corner of the bounding box, metres.
    diameter : float
        Largest distance between two points, metres.
    points : array, shape (P, 3)
        Points spread over the surface, to measure pose errors and draw with.
    symmetries : Symmetries
        Of shape and colours, for input rgb_mask.
    shape_symmetries : Symmetries
        Of the shape alone, for input mask.
    bop_id : int or None
    mesh_path : str
        Where the mesh came from.
    unit : str
        The mesh's unit, a key of UNITS.

    """

    name: str
    keypoints: np.ndarray
    keypoint_names: tuple
    bounds: np.ndarray
    diameter: float
    points: np.ndarray
    symmetries: Symmetries = field(default_factory=Symmetries)
    shape_symmetries: Symmetries = field(default_factory=Symmetries)
    bop_id: Optional[int] = None
    mesh_path: str = ''
    unit: str = 'm'

    @property
    def corners(self):
        """Corners of the bounding box, shape (8, 3), in metres; x varies slowest."""
        low, high = self.bounds
        return np.array([[(low, high)[i][0], (low, high)[j][1], (low, high)[k][2]]
                         for i in (0, 1) for j in (0, 1) for k in (0, 1)])

    @property
    def center(self):
        """Middle of the bounding box, shape (3,), in metres."""
        return self.bounds.mean(0)

    def symmetries_for(self, network_input):
        """Return the symmetries that hold for a network input, 'mask' or 'rgb_mask'."""
        return self.shape_symmetries if network_input == 'mask' else self.symmetries

    def to_dict(self):
        """Return what from_dict reads: plain numbers and strings, metres."""
        return {'name': self.name, 'bop_id': self.bop_id, 'mesh': str(self.mesh_path),
                'unit': self.unit, 'diameter': float(self.diameter),
                'bounds': self.bounds.tolist(), 'keypoints': self.keypoints.tolist(),
                'keypoint_names': list(self.keypoint_names),
                'points': np.round(self.points, 6).tolist(),
                'symmetries': self.symmetries.to_dict(),
                'shape_symmetries': self.shape_symmetries.to_dict()}

    @classmethod
    def from_dict(cls, values):
        """Return the model that to_dict wrote."""
        return cls(values['name'], np.array(values['keypoints'], float),
                   tuple(values['keypoint_names']), np.array(values['bounds'], float),
                   float(values['diameter']), np.array(values['points'], float),
                   Symmetries.from_dict(values['symmetries']),
                   Symmetries.from_dict(values['shape_symmetries'], name='shape_symmetries'),
                   values['bop_id'], values['mesh'], values['unit'])


def load_object(path, **overrides):
    """
    Read an object YAML and its mesh.

    Parameters
    ----------
    path : path
        YAML with the keys of YAML_KEYS, of which mesh and unit are required.
    **overrides
        Values that replace those of the file.

    Returns
    -------
    model : ObjectModel
    mesh : Mesh

    Raises
    ------
    InputError
        For a file that is missing or no YAML, an unknown key, or whatever object_from_mesh
        and load_mesh refuse.

    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f'{path}: expected an object YAML, got no such file') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())  # YAML's errors are of several lines
        raise InputError(f'{path}: expected an object YAML, got {reason}') from error
    if not isinstance(values, dict):
        raise InputError(f'{path}: expected keys ({", ".join(YAML_KEYS)}), '
                         f'got {type(values).__name__}')
    unknown = sorted(set(values) - set(YAML_KEYS))
    if unknown:
        raise InputError(f'{path}: unknown key {", ".join(map(repr, unknown))}; '
                         f'expected {", ".join(YAML_KEYS)}')
    for key in ('mesh', 'unit'):
        if key not in values and key not in overrides:
            raise InputError(f'{path}: expected the key {key!r}')
    values = {**values, **overrides}
    mesh_path = str(values.pop('mesh'))
    if not mesh_path.startswith('builtin:') and not Path(mesh_path).is_absolute():
        mesh_path = str(path.parent / mesh_path)
    values.setdefault('name', path.stem)
    return object_from_mesh(mesh_path, **values)


def object_from_mesh(mesh, unit, name=None, bop_id=None, keypoints=DEFAULT_KEYPOINTS,
                     symmetries=None, shape_symmetries=None):
    """
    Make an object from a mesh file.

    Parameters
    ----------
    mesh : path
        PLY, OBJ, GLB, STL or DAE, or builtin:NAME.
    unit : str
        The unit of its vertices, a key of UNITS.
    name : str
        Default: the file's stem.
    bop_id : int
        Default: N where the file is called obj_N.
    keypoints : int or dict
        How many points to spread over the surface, or {name: [x, y, z]} in the mesh's unit.
    symmetries : dict
        BOP's notation, lengths in the mesh's unit. Default: those of the models_info.json
        beside the mesh, if there is one.
    shape_symmetries : dict
        The same without regard to colours. Default: symmetries.

    Returns
    -------
    model : ObjectModel
    mesh : Mesh

    """
    if unit not in UNITS:
        raise InputError(f'unit: expected one of {", ".join(UNITS)}, got {unit!r}')
    scale = UNITS[unit]
    surface = _read_mesh(str(mesh), scale)
    name = str(name or Path(str(mesh)).stem)
    if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', name):
        raise InputError(f'name: expected letters, digits and _ (it becomes a TF frame), '
                         f'got {name!r}')
    numbered = re.fullmatch(r'obj_(\d+)', Path(str(mesh)).stem)
    if bop_id is None and numbered:
        bop_id = int(numbered.group(1))
    if bop_id is not None and (not isinstance(bop_id, int) or isinstance(bop_id, bool)):
        raise InputError(f'bop_id: expected an integer, got {bop_id!r}')
    diameter = mesh_diameter(surface.vertices)
    low, high = PLAUSIBLE_DIAMETER
    if not low <= diameter <= high:
        raise InputError(f'{mesh}: the object is {diameter:.3g} m across in unit {unit!r}, '
                         f'expected {low} to {high} m; name the right unit '
                         f'({", ".join(UNITS)})')
    if symmetries is None:
        symmetries = bop_symmetries(Path(str(mesh)).parent / 'models_info.json', bop_id, unit)
    samples = sample_surface(surface, 4096)
    if isinstance(keypoints, dict):
        names = tuple(str(key) for key in keypoints)
        try:
            points = np.array([keypoints[key] for key in keypoints], float) * scale
        except (TypeError, ValueError):
            points = np.zeros(0)
        if points.shape != (len(names), 3) or len(names) < 6 or not np.isfinite(points).all():
            raise InputError('keypoints: expected at least 6 named points of 3 finite numbers, '
                             f'got {keypoints}')
    else:
        if not isinstance(keypoints, int) or not 6 <= keypoints <= 256:
            raise InputError(f'keypoints: expected a number from 6 to 256 or named points, '
                             f'got {keypoints!r}')
        points = farthest_points(samples, keypoints)
        names = tuple(f'p{index}' for index in range(keypoints))
    parsed = Symmetries.from_dict(symmetries, scale)
    shape = (parsed if shape_symmetries is None
             else Symmetries.from_dict(shape_symmetries, scale, 'shape_symmetries'))
    bounds = np.stack([surface.vertices.min(0), surface.vertices.max(0)])
    model = ObjectModel(name, points, names, bounds, diameter, farthest_points(samples, 256),
                        parsed, shape, bop_id, str(mesh), unit)
    return model, surface


def bop_symmetries(path, bop_id, unit):
    """
    Return the symmetries of one object of BOP's models_info.json.

    Parameters
    ----------
    path : path
        The file, whose lengths are millimetres.
    bop_id : int or None
        Number of the object.
    unit : str
        What the lengths are to be in, a key of UNITS.

    Returns
    -------
    symmetries : dict
        For Symmetries.from_dict; {} without the file or the object.

    """
    path = Path(path)
    if bop_id is None or not path.exists():
        return {}
    scale = UNITS['mm'] / UNITS[unit]
    try:
        entry = json.loads(path.read_text()).get(str(bop_id))
        if entry is None:
            return {}
        discrete = []
        for flat in entry.get('symmetries_discrete', []):
            matrix = np.array(flat, float).reshape(4, 4)
            matrix[:3, 3] *= scale
            discrete.append(matrix.ravel().tolist())
        continuous = [{'axis': one['axis'],
                       'offset': (np.array(one['offset'], float) * scale).tolist()}
                      for one in entry.get('symmetries_continuous', [])]
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path}: expected models_info.json of BOP, got {error!r}') from error
    return {'discrete': discrete, 'continuous': continuous}


def _read_mesh(source, scale):
    """Return the Mesh of a file or of builtin:NAME, in metres."""
    if not source.startswith('builtin:'):
        return load_mesh(source, scale)
    mesh = builtin_mesh(source.split(':', 1)[1])
    return replace(mesh, vertices=mesh.vertices * scale)
