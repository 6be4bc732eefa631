"""Meshes: triangles with colours, read from files, measured and sampled."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from .errors import InputError


# Larger textures than this, texels a side, are made smaller: no camera sees so much of a thing.
MOST_TEXELS = 2048


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

    @cached_property
    def pyramid(self):
        """
        The texture, and it in half the size, a quarter and so on (Williams 1983).

        In the smaller ones what no face shows, between the parts of an atlas, has the colour of
        what is near, and no part in that.

        """
        assert self.texture is not None
        levels, cover = [self.texture], self._shown()
        sums = [np.dstack([cv2.bitwise_and(self.texture, self.texture, mask=cover), cover])]
        while min(sums[-1].shape[:2]) > 2:
            height, width = sums[-1].shape[:2]
            sums.append(cv2.resize(sums[-1].astype(np.float32), (-(-width // 2), -(-height // 2)),
                                   interpolation=cv2.INTER_AREA))
        filled = None
        for one in sums[:0:-1]:
            color, cover = one[..., :3], one[..., 3:] / 255
            if filled is not None:
                # A little of what is near, which matters only where nothing is shown.
                near = cv2.resize(filled, one.shape[1::-1], interpolation=cv2.INTER_LINEAR)
                color, cover = color + 1e-3 * near, cover + 1e-3
            filled = color / np.maximum(cover, 1e-6)
            levels.insert(1, filled.round().clip(0, 255).astype(np.uint8))
        return levels

    def bent(self, vertices):
        """Return the Mesh with its vertices (V, 3) elsewhere, coloured as it is."""
        mesh = make_mesh(vertices, self.faces, self.colors, self.uv, self.texture)
        if self.texture is not None:
            mesh.__dict__['pyramid'] = self.pyramid  # the same, and takes a second
        return mesh

    def _shown(self):
        """Return which texels some face shows: 255, else 0, shape (h, w)."""
        assert self.texture is not None and self.uv is not None
        height, width = self.texture.shape[:2]
        used = self.uv[self.faces]
        if used.min() < 0 or used.max() > 1:  # it is repeated
            return np.full((height, width), 255, np.uint8)
        shown = np.zeros((height, width), np.uint8)
        corners = np.stack([used[..., 0] * width - 0.5, (1 - used[..., 1]) * height - 0.5], -1)
        for corner in np.round(16 * corners).astype(np.int32):  # fixed point with 4 bits
            cv2.fillConvexPoly(shown, corner, 255, shift=4)
        return shown

    @cached_property
    def texel(self):
        """Side of a texel on the surface of each face, shape (F,), metres."""
        assert self.texture is not None and self.uv is not None
        height, width = self.texture.shape[:2]
        used = self.uv[self.faces]
        first, second = used[:, 1] - used[:, 0], used[:, 2] - used[:, 0]
        texels = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) * width * height
        return np.sqrt(_areas(self) / np.maximum(texels / 2, 1e-9))


def load_mesh(path, scale=1.0):
    """
    Read a mesh.

    Parameters
    ----------
    path : path
        PLY, OBJ, GLB, STL or DAE.
    scale : float
        Metres per unit of the file.

    Raises
    ------
    InputError
        For a file that is missing, unreadable, without triangles or not finite.

    """
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
    mesh = make_mesh(np.asarray(loaded.vertices) * scale, loaded.faces, colors, uv, texture)
    if texture is None or max(texture.shape) <= MOST_TEXELS:
        return mesh
    smaller = next(one for one in mesh.pyramid if max(one.shape) <= MOST_TEXELS)
    return replace(mesh, texture=smaller)


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
    face, weights = _random_places(mesh, count, seed)
    return (mesh.vertices[mesh.faces[face]] * weights).sum(1)


def surface_samples(mesh, count, seed=0, apart=1):
    """
    Return points spread evenly at random over the surface, with what is seen there.

    Of a texture, that is the mean about each point, over the area that one in `apart` of them
    stands for.

    Returns
    -------
    points : array, shape (count, 3)
    normals : array, shape (count, 3)
        Of unit length.
    colors : array of uint8, shape (count, 3)
        RGB.

    """
    face, weights = _random_places(mesh, count, seed)
    normals = (mesh.normals[face] * weights).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return ((mesh.vertices[mesh.faces[face]] * weights).sum(1), normals,
            surface_colors(mesh, face, weights.astype(np.float32),
                           np.full(count, np.sqrt(_areas(mesh).sum() * apart / count))))


def surface_colors(mesh, face, weights, reach):
    """
    Return RGB (n, 3) at barycentric weights (n, 3, 1) of faces (n,).

    Grey 180 where the mesh has no colours. Of a texture, the mean over about `reach` (n,) metres
    along the surface, what a pixel sees: without it fine print would be specks of chance.

    """
    corners = mesh.faces[face]
    if mesh.texture is not None:
        uv = _mixed(mesh.uv, corners, weights) % 1.0
        # Texels a little smaller than asked for: between them it is interpolated.
        level = np.log2(np.maximum(reach / np.maximum(mesh.texel[face], 1e-12), 1e-9)) - 0.5
        level = np.clip(level, 0, len(mesh.pyramid) - 1).astype(np.float32)
        color = np.zeros((len(face), 3), np.float32)
        for index, texture in enumerate(mesh.pyramid):
            weight = 1 - np.abs(level - index)
            own = np.flatnonzero(weight > 0)
            if len(own):
                color[own] += weight[own, None] * _texture_at(texture, uv[own])
        return color.round().astype(np.uint8)
    if mesh.colors is not None:
        return _mixed(mesh.colors, corners, weights).round().astype(np.uint8)
    return np.full((len(face), 3), 180, np.uint8)


def _mixed(values, corners, weights):
    """Return values (V, k) mixed by weights (n, 3, 1) of corners (n, 3): shape (n, k)."""
    values = np.asarray(values, np.float32)
    return sum(values[corners[:, corner]] * weights[:, corner] for corner in range(3))


def _texture_at(texture, uv):
    """Return RGB (n, 3) at texture coordinates (n, 2)."""
    height, width = texture.shape[:2]
    maps = np.stack([uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5], -1)
    # remap takes at most 32767 rows.
    rows = np.array_split(maps.astype(np.float32), len(maps) // 30000 + 1)
    return np.concatenate([
        cv2.remap(texture, part[:, None], None, cv2.INTER_LINEAR,
                  borderMode=cv2.BORDER_REPLICATE)[:, 0] for part in rows])


def _areas(mesh):
    """Return the area of each face, shape (F,), square metres."""
    triangles = mesh.vertices[mesh.faces]
    return np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0],
                                   triangles[:, 2] - triangles[:, 0]), axis=1) / 2


def _random_places(mesh, count, seed):
    """Return faces (count,) and barycentric weights (count, 3, 1), even over the surface."""
    rng = np.random.default_rng(seed)
    area = _areas(mesh)
    if not area.sum() > 0:
        raise InputError('mesh: expected triangles with an area, got none')
    face = rng.choice(len(area), count, p=area / area.sum())
    first, second = rng.random((2, count, 1))
    outside = first + second > 1
    first, second = np.where(outside, 1 - first, first), np.where(outside, 1 - second, second)
    return face, np.stack([1 - first - second, first, second], 1)


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
    return points[farthest_indices(points, count)]


def farthest_indices(points, count):
    """Return the indices (count,) of the points that farthest_points chooses."""
    distance = np.linalg.norm(points - points.mean(0), axis=1)
    chosen = []
    best = None
    for _ in range(count):
        index = int(np.argmax(distance if best is None else best))
        chosen.append(index)
        step = np.linalg.norm(points - points[index], axis=1)
        best = step if best is None else np.minimum(best, step)
    return np.array(chosen)
