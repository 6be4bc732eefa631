"""Random bodies that are no known object: clutter for virtual scenes."""

import cv2
import numpy as np

from .backgrounds import random_texture
from .render import RayCaster
from .shading import Light
from ..geometry import Pose, random_rotations
from ..mesh import make_mesh

# Share of the backgrounds that stay without clutter.
CLEAR = 0.25


def random_body(rng, texture_size=96, most_parts=1):
    """
    Make a textured box, turned body or prism, or a few of these joined, 3 to 30 cm long.

    Machines and tools are several parts, mostly of two materials, with gaps between them.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    texture_size : int
        Side of its texture in pixels.
    most_parts : int
        How many may be joined; most bodies are one part even so.

    Returns
    -------
    Mesh
        Metres; z is up, the origin is in the middle.

    """
    parts, count = 1, 0
    if most_parts > 1 and rng.random() < 0.45:
        parts = int(rng.integers(2, most_parts + 1))
    vertices, uv, faces = [], [], []
    for part in range(parts):
        points, places, corners = (_box, _turned, _prism)[
            rng.choice(3, p=(0.45, 0.35, 0.2))](rng)
        points = points - (points.min(0) + points.max(0)) / 2
        points = points / np.ptp(points, axis=0).max()
        if part:
            points = (points * rng.uniform(0.15, 1, 3)) @ _turn(rng).T
            points = points + rng.uniform(-0.5, 0.5, 3)
        faces.append(corners + count)
        count += len(points)
        vertices.append(points)
        # The textures of the two materials stand side by side.
        uv.append((places + (part % 2, 0)) / (min(parts, 2), 1))
    joined = np.concatenate(vertices)
    joined -= (joined.min(0) + joined.max(0)) / 2
    joined *= np.exp(rng.uniform(np.log(0.03), np.log(0.3))) / np.ptp(joined, axis=0).max()
    textures = [random_texture(rng, texture_size, texture_size) for _ in range(min(parts, 2))]
    return make_mesh(joined, np.concatenate(faces), uv=np.concatenate(uv),
                     texture=np.concatenate(textures, 1))


def warped(mesh, rng):
    """
    Return a Mesh stretched, twisted and bent beyond recognition, its colours as they were.

    Its surface looks like the original's, its shape does not: what tells things by colour or
    grain alone is misled.

    """
    vertices = mesh.vertices - (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2
    size = np.ptp(vertices, axis=0).max()
    points = vertices / size @ random_rotations(rng, 1)[0]
    stretch = np.exp(rng.uniform(-0.7, 0.7, 3))
    stretch[0] *= max(1.0, 1.7 * stretch[1:].max() / stretch[0])
    points *= np.roll(stretch, rng.integers(3))
    twist = points[:, 2:] * rng.uniform(-4, 4)
    x, y = points[:, :1], points[:, 1:2]
    points = np.concatenate([x * np.cos(twist) - y * np.sin(twist),
                             x * np.sin(twist) + y * np.cos(twist), points[:, 2:]], 1)
    for _ in range(2):
        axis, along = rng.permutation(3)[:2]
        points[:, axis] += rng.uniform(0.05, 0.2) * np.sin(
            points[:, along] * rng.uniform(3, 12) + rng.uniform(0, 2 * np.pi))
    points *= size * np.exp(rng.uniform(-0.5, 0.5)) / np.ptp(points, axis=0).max()
    return mesh.bent(points)


def _turn(rng):
    """Return a rotation (3, 3) about a random axis of three, by a right angle or any."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    return Pose.from_rotvec(np.eye(3)[rng.integers(3)] * angle, np.zeros(3)).R_m2c


def body_bank(rng, count, size, make=random_body):
    """
    Make pictures of random lit bodies, to stand beside and before an object.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    count, size : int
        How many, and their side in pixels.
    make : callable
        Takes rng and returns the Mesh of a body.

    Returns
    -------
    pictures : array of uint8, shape (count, size, size, 4)
        RGBA; each body about fills its picture.

    """
    middle = (size - 1) / 2
    pictures = np.zeros((count, size, size, 4), np.uint8)
    for picture, rotation in zip(pictures, random_rotations(rng, count)):
        mesh = make(rng)
        extent = np.linalg.norm(mesh.vertices, axis=1).max()
        distance = extent * rng.uniform(3, 8)
        focal = 0.98 * middle * np.sqrt(distance ** 2 - extent ** 2) / extent
        K = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
        seen = RayCaster(mesh).render(Pose(rotation, np.array([0, 0, distance])), K, size, size)
        colors = Light.random(rng).shade(seen.normal[seen.mask], seen.albedo[seen.mask])
        picture[seen.mask, :3] = np.clip(colors, 0, 255)
        picture[..., 3] = seen.mask * np.uint8(255)
    return pictures


def clutter(rng, pictures, bodies):
    """
    Put many bodies upon most of some backgrounds, in place.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    pictures : array of uint8, shape (N, S, S, 3)
        RGB.
    bodies : array of uint8, shape (M, s, s, 4)
        RGBA, of body_bank.

    """
    for picture in pictures:
        if rng.random() >= CLEAR:
            strew(rng, picture, bodies, rng.integers(4, 40), 0.12, 0.6)


def strew(rng, picture, bodies, count, smallest, largest):
    """
    Put bodies upon a picture, in place.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of chance.
    picture : array of uint8, shape (H, W, 3)
        RGB.
    bodies : array of uint8, shape (M, s, s, 4)
        RGBA, of body_bank.
    count : int
        How many.
    smallest, largest : float
        Range of their sizes, over the picture's longer side.

    """
    height, width = picture.shape[:2]
    own = bodies.shape[1]
    for _ in range(count):
        body = bodies[rng.integers(len(bodies))]
        extent = max(height, width) * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        turn = cv2.getRotationMatrix2D((own / 2, own / 2), rng.uniform(0, 360), extent / own)
        place = rng.uniform(-0.1, 1.1, 2) * (width, height)
        # Only the part of the picture that a body may reach is worked on.
        left, top = np.maximum(np.floor(place - 0.75 * extent), 0).astype(int)
        right, bottom = np.minimum(np.ceil(place + 0.75 * extent), (width, height)).astype(int)
        if right <= left or bottom <= top:
            continue
        turn[:, 2] += place - own / 2 - (left, top)
        drawn = cv2.warpAffine(body, turn, (int(right - left), int(bottom - top)),
                               flags=cv2.INTER_AREA)
        alpha = drawn[..., 3:] / np.float32(255)
        color = np.clip(drawn[..., :3] * np.float32(np.exp(rng.normal(0, 0.3))), 0, 255)
        part = picture[top:bottom, left:right]
        part += ((color - part) * alpha).astype(np.int16).astype(np.uint8)


def _box(rng):
    sides = rng.uniform(0.12, 1, 3)
    vertices, uv, faces = [], [], []
    for axis in range(3):
        for end in (0, 1):
            corners = np.zeros((4, 3))
            corners[:, axis] = end
            corners[:, (axis + 1) % 3] = (0, 1, 1, 0)
            corners[:, (axis + 2) % 3] = (0, 0, 1, 1)
            faces += [np.array([0, 1, 2]) + len(vertices), np.array([0, 2, 3]) + len(vertices)]
            vertices += (corners * sides).tolist()
            # Each side shows its own part of the texture.
            origin, extent = rng.uniform(0.02, 0.4, 2), rng.uniform(0.2, 0.55, 2)
            uv += (origin + corners[:, [(axis + 1) % 3, (axis + 2) % 3]] * extent).tolist()
    return np.array(vertices), np.array(uv), np.array(faces)


def _turned(rng):
    """Return a body turned on a lathe: can, ball, vase, cone."""
    around, steps = 20, int(rng.integers(2, 9))
    height = np.linspace(0, 1, steps)
    kind = rng.integers(3)
    if kind == 0:
        radius = np.full(steps, rng.uniform(0.1, 0.6)) * (1 + height * rng.uniform(-0.6, 0.3))
    elif kind == 1:
        height = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 10))
        radius = rng.uniform(0.3, 1) * np.sin(np.linspace(0, np.pi, 10))
    else:
        radius = np.abs(rng.uniform(0.08, 0.5) + rng.normal(0, 0.08, steps).cumsum()) + 0.03
    height, radius = np.r_[height[0], height, height[-1]], np.r_[0, radius, 0]
    return _loft(np.linspace(0, 2 * np.pi, around + 1), np.ones(around + 1), height, radius)


def _prism(rng):
    """Return a straight body over a random polygon."""
    corners = int(rng.integers(3, 8))
    angle = np.sort(rng.random(corners)) * 2 * np.pi
    reach = rng.uniform(0.3, 1, corners)
    # Doubled corners keep the sides apart.
    angle, reach = np.r_[angle, angle[0] + 2 * np.pi], np.r_[reach, reach[0]]
    thick = rng.uniform(0.1, 1.2)
    return _loft(angle, reach, np.array([0, 0, thick, thick]), np.array([0, 0.5, 0.5, 0]))


def _loft(angle, reach, height, radius):
    """Return vertices, uv, faces of rings (radius * reach, angle) at heights."""
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None]  # (A, 2)
    flat = circle[None] * radius[:, None, None]  # (H, A, 2)
    vertices = np.concatenate(
        [flat, np.broadcast_to(height[:, None, None], (*flat.shape[:2], 1))], -1)
    along = np.r_[0, np.cumsum(np.abs(np.diff(height)) + np.abs(np.diff(radius)))]
    turn = np.broadcast_to(np.arange(len(angle)) / (len(angle) - 1), flat.shape[:2])
    uv = np.stack([turn * 0.96 + 0.02, np.broadcast_to(
        along[:, None] / along[-1] * 0.96 + 0.02, flat.shape[:2])], -1)
    rows, columns = np.meshgrid(np.arange(len(height) - 1), np.arange(len(angle) - 1),
                                indexing='ij')
    a = (rows * len(angle) + columns).ravel()
    b, c, d = a + 1, a + len(angle), a + len(angle) + 1
    faces = np.concatenate([np.column_stack([a, b, d]), np.column_stack([a, d, c])])
    corners = vertices.reshape(-1, 3)[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
                          axis=1)
    return vertices.reshape(-1, 3), uv.reshape(-1, 2), faces[area > 1e-9]
