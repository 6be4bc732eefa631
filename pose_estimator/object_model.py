"""Known objects: mesh, keypoints, size and symmetries, and the YAML that describes one."""

from dataclasses import dataclass, field, replace
import json
from pathlib import Path
import re
from typing import Optional

import numpy as np
from scipy.spatial import cKDTree
import yaml

from .errors import InputError
from .geometry import Pose

UNITS = {'m': 1.0, 'cm': 0.01, 'mm': 0.001, 'in': 0.0254}
# An object of a picking robot; anything else is most often a wrong unit.
PLAUSIBLE_DIAMETER = (0.005, 5.0)
YAML_KEYS = ('name', 'mesh', 'unit', 'bop_id', 'keypoints', 'symmetries', 'shape_symmetries')
DEFAULT_KEYPOINTS = 32


@dataclass(frozen=True, eq=False)
class Mesh:
    """
    Triangles with colours.

    Attributes
    ----------
    vertices : array, shape (V, 3)
        Model frame, metres.
    faces : array of int, shape (F, 3)
    normals : array, shape (F, 3, 3)
        Unit normal at each corner of each face, smooth but for sharp edges.
    colors : array of uint8, shape (V, 3), or None
        RGB of the vertices.
    uv : array, shape (V, 2), or None
        Texture coordinates, origin at the texture's lower left.
    texture : array of uint8, shape (h, w, 3), or None
        RGB.

    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: Optional[np.ndarray] = None
    uv: Optional[np.ndarray] = None
    texture: Optional[np.ndarray] = None

    @property
    def has_appearance(self):
        """Whether the mesh has colours of its own."""
        return self.colors is not None or self.texture is not None


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
    surface = load_mesh(mesh, scale)
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
        symmetries = bop_symmetries(Path(str(mesh)).parent / 'models_info.json', bop_id)
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


def bop_symmetries(path, bop_id):
    """Return the symmetries of one object of BOP's models_info.json, {} without one."""
    path = Path(path)
    if bop_id is None or not path.exists():
        return {}
    try:
        entry = json.loads(path.read_text()).get(str(bop_id), {})
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f'{path}: expected models_info.json of BOP, got {error}') from error
    return {'discrete': entry.get('symmetries_discrete', []),
            'continuous': entry.get('symmetries_continuous', [])}


def load_mesh(path, scale=1.0):
    """
    Read a mesh.

    Parameters
    ----------
    path : path
        PLY, OBJ, GLB, STL or DAE, or builtin:NAME for a mesh of pose_estimator.demo.meshes.
    scale : float
        Metres per unit of the file.

    Raises
    ------
    InputError
        For a file that is missing, unreadable, without triangles or not finite.

    """
    if str(path).startswith('builtin:'):
        from .demo.meshes import builtin_mesh
        mesh = builtin_mesh(str(path).split(':', 1)[1])
        return replace(mesh, vertices=mesh.vertices * scale)
    import trimesh
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: expected a mesh file, got no such file')
    if not path.stat().st_size:
        raise InputError(f'{path}: expected a mesh, got an empty file')
    _check_companions(path)
    try:
        loaded = trimesh.load(path, process=False)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh() if loaded.geometry else trimesh.Trimesh()
    except Exception as error:  # noqa: B902, trimesh's readers raise whatever they meet
        raise InputError(f'{path}: expected a mesh (PLY, OBJ, GLB, STL, DAE), got '
                         f'{type(error).__name__}: {error}') from error
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        raise InputError(f'{path}: expected triangles, got none')
    if loaded.faces.min() < 0 or loaded.faces.max() >= len(loaded.vertices):
        raise InputError(f'{path}: expected faces of its {len(loaded.vertices)} vertices, got '
                         f'vertex {loaded.faces.max()}')
    if not np.isfinite(loaded.vertices).all():
        raise InputError(f'{path}: expected finite vertices, got NaN or infinity')
    colors = uv = texture = None
    visual = loaded.visual
    if visual.kind == 'texture' and getattr(visual, 'uv', None) is not None:
        material = visual.material
        image = getattr(material, 'image', None) or getattr(material, 'baseColorTexture', None)
        if image is not None:
            uv = np.asarray(visual.uv, float)
            texture = np.asarray(image.convert('RGB'))
        # What trimesh makes up for texture coordinates without a material.
        default = trimesh.visual.material.empty_material().image.convert('RGB')
        if texture is not None and np.array_equal(texture, np.asarray(default)):
            return make_mesh(np.asarray(loaded.vertices) * scale, loaded.faces)
    if texture is None and visual.defined:
        flat = visual.to_color() if visual.kind == 'texture' else visual
        if not flat.defined:
            pass
        elif flat.kind == 'face':
            # Faces of one colour share no vertices.
            loaded = trimesh.Trimesh(loaded.triangles.reshape(-1, 3),
                                     np.arange(3 * len(loaded.faces)).reshape(-1, 3),
                                     process=False)
            colors = np.repeat(np.asarray(flat.face_colors)[:, :3], 3, 0)
        else:
            # One colour of four numbers where a material has no more.
            colors = np.atleast_2d(flat.vertex_colors)[:, :3]
        if colors is not None and len(colors) != len(loaded.vertices):
            colors = np.broadcast_to(colors[:1], (len(loaded.vertices), 3))
    return make_mesh(np.asarray(loaded.vertices) * scale, loaded.faces, colors, uv, texture)


def _check_companions(path):
    """Refuse a mesh whose material or texture file is missing: it would be read as grey."""
    named = []
    if path.suffix.lower() == '.obj':
        named = _named_files(path, 'mtllib')
        named += [texture for library in named for texture in _named_files(library, 'map_Kd')]
    elif path.suffix.lower() == '.ply':
        named = _named_files(path, 'comment TextureFile', b'end_header')
    for one in named:
        if not one.is_file():
            raise InputError(f'{path}: its colours are in {one.name}, expected that beside it, '
                             'got no such file')


def _named_files(path, keyword, end=None):
    """Return the files that lines of a text file with this keyword name, beside it."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    if end is not None:
        content = content[:max(content.find(end), 0)]
    lines = content.decode('utf-8', 'replace').splitlines()
    # The rest of the line is the name, as trimesh reads it.
    return [path.parent / line[len(keyword):].strip() for line in map(str.strip, lines)
            if line.lower().startswith(keyword.lower() + ' ')]


def make_mesh(vertices, faces, colors=None, uv=None, texture=None):
    """Return the Mesh of these arrays with its corner normals; see Mesh for their shapes."""
    vertices = np.asarray(vertices, float)
    faces = np.asarray(faces, int)
    return Mesh(vertices, faces, corner_normals(vertices, faces),
                None if colors is None else np.asarray(colors, np.uint8), uv, texture)


def corner_normals(vertices, faces, sharp_degrees=40):
    """
    Return unit normals (F, 3, 3): averaged over the faces of a vertex, except at sharp edges.

    Faces count by their angle at the vertex (Thuermer and Wuethrich 1998): by area, a large face
    would bend a small one's normals at an edge, and an edge would seem round.

    """
    triangles = vertices[faces]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    flat = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    to_next = np.roll(triangles, -1, 1) - triangles  # (F, 3, 3)
    to_last = np.roll(triangles, 1, 1) - triangles
    angles = np.arctan2(np.linalg.norm(np.cross(to_next, to_last), axis=-1),
                        (to_next * to_last).sum(-1))  # (F, 3)
    # Vertices doubled at texture seams are one point of the surface.
    _, same = np.unique(np.round(vertices / max(np.ptp(vertices), 1e-30), 6), axis=0,
                        return_inverse=True)
    same = same.ravel()
    total = np.zeros((same.max() + 1, 3))
    for corner in range(3):
        np.add.at(total, same[faces[:, corner]], flat * angles[:, corner, None])
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    smooth = total[same[faces]]  # (F, 3, 3)
    is_sharp = (smooth * flat[:, None]).sum(-1) < np.cos(np.radians(sharp_degrees))
    return np.where(is_sharp[..., None], flat[:, None], smooth)


def mesh_diameter(vertices):
    """Return the largest distance between two vertices, over their convex hull."""
    from scipy.spatial import ConvexHull, QhullError
    try:
        vertices = vertices[ConvexHull(vertices).vertices]
    except QhullError:
        pass
    if len(vertices) > 2000:
        vertices = farthest_points(vertices, 2000)
    return float(max(np.linalg.norm(vertices - point, axis=1).max() for point in vertices))


def sample_surface(mesh, count, seed=0):
    """Return points (count, 3) spread evenly at random over the surface, the same each time."""
    rng = np.random.default_rng(seed)
    triangles = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0],
                                   triangles[:, 2] - triangles[:, 0]), axis=1)
    if not area.sum() > 0:
        raise InputError('mesh: expected triangles with an area, got none')
    chosen = triangles[rng.choice(len(area), count, p=area / area.sum())]
    first, second = rng.random((2, count, 1))
    outside = first + second > 1
    first, second = np.where(outside, 1 - first, first), np.where(outside, 1 - second, second)
    return (chosen[:, 0] + first * (chosen[:, 1] - chosen[:, 0])
            + second * (chosen[:, 2] - chosen[:, 0]))


def farthest_points(points, count):
    """
    Choose points far from one another (farthest-point sampling, as PVNet, Peng et al. 2019).

    Parameters
    ----------
    points : array, shape (N, 3)
        To choose from.
    count : int
        How many.

    Returns
    -------
    chosen : array, shape (count, 3)
        The first is the one farthest from the middle; of fewer points all, then repeated.

    """
    distance = np.linalg.norm(points - points.mean(0), axis=1)
    chosen = []
    best = None
    for _ in range(count):
        index = int(np.argmax(distance if best is None else best))
        chosen.append(index)
        step = np.linalg.norm(points - points[index], axis=1)
        best = step if best is None else np.minimum(best, step)
    return points[chosen]


def nearest_distances(points, others):
    """Return the distance (N,) from each of `points` to the nearest of `others`."""
    return cKDTree(others).query(points)[0]
