"""Whole virtual images: several objects, light, shadows, clutter, and a camera's faults."""

from dataclasses import dataclass

import cv2
import numpy as np

from .backgrounds import random_background, random_texture
from .distractors import random_body
from .render import RayCaster
from .shading import Light
from ..camera import PinholeCamera
from ..geometry import Pose, random_rotations, rotation_between

# Nothing nearer to the camera than this is drawn, metres.
NEAREST = 0.05


@dataclass(frozen=True, eq=False)
class Plane:
    """
    The points x of the camera frame with normal . x = offset, such as a table's top.

    Attributes
    ----------
    normal : array, shape (3,)
        Unit vector away from the table, towards the camera.
    offset : float
        Metres, negative.

    """

    normal: np.ndarray
    offset: float

    def along(self, rays):
        """Return the points (N, 3) where rays (N, 3) from the camera meet the plane."""
        return rays * (self.offset / (rays @ self.normal))[..., None]


@dataclass(frozen=True, eq=False)
class Scene:
    """
    A virtual image and what is true of it.

    Attributes
    ----------
    image : array of uint8, shape (H, W, 3)
        RGB.
    ids : array of uint16, shape (H, W)
        i + 1 where objects[i] is seen, 0 elsewhere.
    visible : array, shape (n,)
        Pixels seen of each object over the pixels of its whole silhouette, the part beyond
        the image's border included.
    depth : array of float32, shape (H, W)
        z in the camera frame of the bodies seen, metres; infinite on the background.

    """

    image: np.ndarray
    ids: np.ndarray
    visible: np.ndarray
    depth: np.ndarray


def silhouette_window(mesh, pose, camera):
    """
    Return x0, y0, x1, y1 in whole pixels around a mesh's silhouette; it may leave the image.

    None where the mesh reaches behind the camera or its silhouette is far outside the image or
    many times as large.

    """
    points = pose.transform(mesh.vertices)
    if points[:, 2].min() < NEAREST:
        return None
    pixels = points @ camera.K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    x0, y0 = np.floor(pixels.min(0)).astype(int)
    x1, y1 = np.ceil(pixels.max(0)).astype(int) + 1
    if x1 <= 0 or y1 <= 0 or x0 >= camera.width or y0 >= camera.height:
        return None
    if x1 - x0 > 3 * camera.width or y1 - y0 > 3 * camera.height:
        return None
    return x0, y0, x1, y1


def render_scene(objects, camera, light, background, occluders=(), table=None):
    """
    Draw objects and occluders before a background; the nearest surface wins.

    Parameters
    ----------
    objects, occluders : list of (RayCaster, Pose)
        Occluders are whatever is no known object, wherever it stands.
    camera : PinholeCamera
        Without distortion.
    light : Light
        In the camera frame.
    background : array of uint8, shape (camera.height, camera.width, 3)
        RGB.
    table : Plane
        Where given, all bodies throw a soft shadow upon it.

    Returns
    -------
    Scene

    """
    bodies = [*objects, *occluders]
    height, width = camera.height, camera.width
    picture = background.astype(np.float32)
    if table is not None:
        picture *= _shadow(bodies, camera, light, table)[..., None]
    nearest = np.full((height, width), np.inf, np.float32)
    ids = np.zeros((height, width), np.uint16)
    whole = np.zeros(len(objects))
    for index, (caster, pose) in enumerate(bodies):
        window = silhouette_window(caster.mesh, pose, camera)
        if window is None:
            continue
        x0, y0, x1, y1 = window
        if index >= len(objects):  # nobody asks how much of an occluder is seen
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        buffer = caster.render(pose, camera.K, x1 - x0, y1 - y0, (x0, y0))
        left, top = max(x0, 0), max(y0, 0)
        inside = np.s_[top - y0:min(y1, height) - y0, left - x0:min(x1, width) - x0]
        place = np.s_[top:min(y1, height), left:min(x1, width)]
        mask, depth = buffer.mask[inside], buffer.depth[inside]
        wins = mask & (depth < nearest[place])
        picture[place][wins] = light.shade(buffer.normal[inside][wins],
                                           buffer.albedo[inside][wins])
        nearest[place][wins] = depth[wins]
        if index < len(objects):
            whole[index] = buffer.mask.sum()
            ids[place][wins] = index + 1
        else:
            ids[place][wins] = 0
    seen = np.bincount(ids.ravel(), minlength=len(objects) + 1)[1:]
    image = np.clip(picture, 0, 255).astype(np.uint8)
    return Scene(image, ids, seen / np.maximum(whole, 1), nearest)


def _shadow(bodies, camera, light, table):
    """Return the light (H, W) that reaches a table: 1, less under the bodies' soft shadows."""
    shade = np.ones((camera.height // 2, camera.width // 2), np.float32)
    lamp = light.directions[int(np.argmax(light.colors.sum(1)))]
    slope = lamp @ table.normal
    if slope < 0.15:  # the lamp is too low: only a darkening where things stand
        lamp, slope = table.normal, 1.0
    strength = float(np.clip(light.colors.sum() / (light.colors.sum() + light.ambient.sum()),
                             0.2, 0.8))
    dark = np.zeros(shade.shape, np.uint8)
    for caster, pose in bodies:
        points = pose.transform(caster.mesh.vertices)
        height = points @ table.normal - table.offset
        if height.min() > 0.1:  # it floats
            continue
        fallen = points - np.outer(height / slope, lamp)
        if fallen[:, 2].min() < NEAREST:
            continue
        pixels = fallen @ camera.K.T
        pixels = pixels[:, :2] / pixels[:, 2:] / 2
        if np.abs(pixels).max() > 10 * camera.width:
            continue
        hull = cv2.convexHull(pixels.astype(np.int32))
        cv2.fillConvexPoly(dark, hull, 255)
    soft = cv2.GaussianBlur(dark, (0, 0), max(camera.width / 160, 0.8))
    shade -= soft * np.float32(strength / 255)
    return cv2.resize(shade, (camera.width, camera.height))


def photograph(image, rng):
    """
    Return the image as a cheap camera would give it.

    Exposure and colour cast, blur or motion, noise, JPEG: each now and then.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        RGB.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    image : array of uint8, shape (H, W, 3)

    """
    picture = image.astype(np.float32)
    gains = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.06, 3))
    picture = (picture - 110) * rng.uniform(0.7, 1.2) + 110
    picture = np.clip(picture * gains.astype(np.float32), 0, 255)
    if rng.random() < 0.5:
        picture = 255 * (picture / 255) ** np.float32(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.25:
        grey = picture.mean(-1, keepdims=True)
        picture = grey + (picture - grey) * np.float32(rng.uniform(0.3, 1.3))
    blur = rng.random()
    if blur < 0.45:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.3))
    elif blur < 0.6:
        length = int(rng.integers(2, 7))
        angle = rng.uniform(0, np.pi)
        steps = np.linspace(-0.5, 0.5, 2 * length) * length
        kernel = np.zeros((length | 1, length | 1), np.float32)
        middle = kernel.shape[0] // 2
        np.add.at(kernel, ((middle + steps * np.sin(angle)).astype(int),
                           (middle + steps * np.cos(angle)).astype(int)), 1)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    if rng.random() < 0.8:
        sigma = np.float32(rng.uniform(0, 9) * rng.random())
        picture += rng.standard_normal(picture.shape, np.float32) * sigma
    result = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(35, 95))
        _, data = cv2.imencode('.jpg', result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        result = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return result


class SceneMaker:
    """
    Random scenes of known objects, for training: on a table or flying, cluttered, occluded.

    Parameters
    ----------
    meshes : dict of name -> Mesh
    rng : numpy.random.Generator
    width, height : int
        Size of the images in pixels.
    distances : (float, float)
        Nearest and farthest object from the camera, metres.
    empty : float
        Share of scenes that show distractors only.

    """

    def __init__(self, meshes, rng, width=320, height=240, distances=(0.35, 1.5), empty=0.15):
        self.names = tuple(meshes)
        self.rng = rng
        self.width, self.height = width, height
        self.distances = distances
        self.empty = empty
        self._casters = [RayCaster(mesh) for mesh in meshes.values()]
        self._bodies = [RayCaster(random_body(rng)) for _ in range(40)]

    def scene(self):
        """
        Make the next scene.

        Returns
        -------
        scene : Scene
        names : list of str
            Name of each object.

        """
        rng = self.rng
        # One distractor is made anew each time, so that they never run out.
        self._bodies[rng.integers(len(self._bodies))] = RayCaster(random_body(rng))
        # Ray casting gives hard edges; drawing finer and shrinking softens them.
        finer = float(rng.choice([1, 1.5, 2], p=(0.4, 0.5, 0.1)))
        width, height = int(self.width * finer), int(self.height * finer)
        focal = width * rng.uniform(0.75, 1.15)
        middle = np.array([width, height]) * rng.uniform(0.47, 0.53, 2)
        camera = PinholeCamera(np.array([[focal, 0, middle[0]], [0, focal, middle[1]],
                                         [0, 0, 1]]), width, height)
        light = Light.random(rng)
        # Mostly a few objects, now and then many or, with distractors alone, none.
        count = 0 if rng.random() < self.empty else int(rng.choice(
            [1, 2, 3, 4, 5, 6], p=(0.14, 0.2, 0.28, 0.18, 0.12, 0.08)))
        kinds = rng.integers(0, len(self.names), count)
        if count >= len(self.names) and rng.random() < 0.5:
            kinds[:len(self.names)] = np.arange(len(self.names))
        chosen = [self._casters[kind] for kind in kinds]
        clutter = [self._bodies[index] for index in
                   rng.integers(0, len(self._bodies), rng.integers(0, 9) + 3 * (count == 0))]
        if rng.random() < 0.6:
            table = self._table(camera)
            background = self._table_top(camera, table)
            taken = []
            poses = self._stand(chosen, camera, table, 0.75, taken)
            others = self._stand(clutter, camera, table, 0.4, taken)
        else:
            table = None
            background = cv2.resize(random_background(rng, self.height, self.width),
                                    (width, height), interpolation=cv2.INTER_LINEAR)
            poses = [self._fly(camera) for _ in chosen]
            others = [self._fly(camera) for _ in clutter]
        names = [self.names[kind] for kind, pose in zip(kinds, poses) if pose is not None]
        objects = [pair for pair in zip(chosen, poses) if pair[1] is not None]
        occluders = [pair for pair in zip(clutter, others) if pair[1] is not None]
        occluders += [self._before(pose) for _, pose in objects if rng.random() < 0.3]
        drawn = render_scene(objects, camera, light, background, occluders, table)
        image, ids, depth = drawn.image, drawn.ids, drawn.depth
        if finer > 1:
            size = self.width, self.height
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
            depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
        return Scene(photograph(image, rng), ids, drawn.visible, depth), names

    def _distance(self):
        low, high = np.log(self.distances)
        return float(np.exp(self.rng.uniform(low, high)))

    def _fly(self, camera):
        """Return a random pose, its origin in the image or close to its border."""
        pixel = self.rng.uniform(-0.05, 1.05, 2) * (camera.width, camera.height)
        origin = camera.rays([pixel])[0] * self._distance()
        return Pose(random_rotations(self.rng, 1)[0], origin)

    def _before(self, pose):
        """Return a distractor between the camera and an object, covering part of it."""
        rng = self.rng
        caster = self._bodies[rng.integers(len(self._bodies))]
        nearer = rng.uniform(0.45, 0.85)
        place = (pose.t_m2c + rng.normal(0, 0.06, 3)) * nearer
        return caster, Pose(random_rotations(rng, 1)[0], place)

    def _table(self, camera):
        """Return a table in the middle of the view, seen from 12 to 85 degrees above."""
        rng = self.rng
        elevation, roll = np.radians(rng.uniform(12, 85)), np.radians(rng.normal(0, 8))
        normal = np.array([np.sin(roll) * np.cos(elevation),
                           -np.cos(roll) * np.cos(elevation), -np.sin(elevation)])
        middle = np.array([0, 0, self._distance()])
        return Plane(normal, float(normal @ middle))

    def _table_top(self, camera, table):
        """Return a background: the table's top, and beyond its edge or horizon a wall."""
        rng = self.rng
        size = 256
        if rng.random() < 0.4:
            top = random_background(rng, size, size)
        else:
            top = random_texture(rng, size, size)
        wall = cv2.resize(random_background(rng, self.height, self.width),
                          (camera.width, camera.height))
        middle = table.along(np.array([[0, 0, 1.0]]))[0]
        across = np.cross(table.normal, rng.normal(0, 1, 3))
        across /= np.linalg.norm(across)
        ahead = np.cross(table.normal, across)
        # Texture pixels to the table's points to the image.
        extent = rng.uniform(0.5, 1.5)
        table2camera = np.column_stack([across * extent / size, ahead * extent / size,
                                        middle - (across + ahead) * extent / 2])
        homography = camera.K @ table2camera
        flags = cv2.INTER_LINEAR
        top = cv2.warpPerspective(top, homography, (camera.width, camera.height), flags=flags,
                                  borderMode=cv2.BORDER_WRAP)
        x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        plane = np.linalg.inv(camera.K).T @ table.normal
        facing = x * plane[0] + y * plane[1] + plane[2]  # negative below the horizon
        depth = table.offset / np.minimum(facing, -1e-6)
        beyond = (facing > -1e-6) | (depth > middle[2] * rng.uniform(1.3, 3))
        return np.where(beyond[..., None], wall, top)

    def _stand(self, casters, camera, table, upright, taken):
        """
        Return a pose upon a table for each body, None where no place was found.

        `taken` is the list of (spot, radius) where things stand already, and is added to.

        """
        rng = self.rng
        poses = []
        for caster in casters:
            poses.append(None)
            vertices = caster.mesh.vertices
            radius = np.ptp(vertices, axis=0).max() / 2
            for _ in range(6):
                ray = camera.rays([rng.uniform(0, 1, 2) * (camera.width, camera.height)])
                if (ray @ table.normal)[0] > -0.02:
                    continue
                spot = table.along(ray)[0]
                if not 0.8 * self.distances[0] < spot[2] < 1.2 * self.distances[1]:
                    continue
                clear = all(np.linalg.norm(spot - other) > 0.6 * (radius + reach)
                            for other, reach in taken)
                if not clear and rng.random() < 0.9:
                    continue
                # The axis that points up: z most often, else any, either way round.
                axis = np.array([0, 0, 1.0])
                if rng.random() > upright:
                    axis = np.roll(axis, rng.integers(3)) * rng.choice([-1, 1])
                spin = Pose.from_rotvec(table.normal * rng.uniform(0, 2 * np.pi), np.zeros(3))
                rotation = spin.R_m2c @ rotation_between(axis, table.normal)
                lift = -((vertices @ rotation.T) @ table.normal).min()
                poses[-1] = Pose(rotation, spot + table.normal * lift)
                taken.append((spot, radius))
                break
        return poses
