"""Whole virtual images: several objects, light, shadows, clutter, and a camera's faults."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .backgrounds import noise, random_background, random_texture
from .distractors import body_bank, random_body, strew, warped
from .render import RayCaster
from .shading import Light
from .views import resting_directions
from ..camera import PinholeCamera
from ..errors import InputError
from ..geometry import Pose, random_rotations, rotation_between
from ..mesh import surface_samples

# Nothing nearer to the camera than this is drawn, metres.
NEAREST = 0.05
# Share of distractors in a known object's colours: what tells things by colour alone is misled.
DECOYS = 0.35
# Share that are a known object warped beyond recognition: nor is its surface enough.
IMPOSTORS = 0.2
# Share of scenes as full of small things as real tables are; what stands around them is a picture.
STREWN = 0.7
# Share of objects whose hues are turned besides, all by one angle, and its standard deviation.
DYED, DYE = 0.35, 0.5


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
    camera : PinholeCamera
        Of the image.
    poses : list of Pose
        Model to camera, of each object.

    """

    image: np.ndarray
    ids: np.ndarray
    visible: np.ndarray
    depth: np.ndarray
    camera: PinholeCamera
    poses: list


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


def render_scene(objects, camera, light, background, occluders=(), table=None, paints=()):
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
    paints : sequence of callable
        One for each object, where given: takes albedo and returns the one to draw, (N, 3) RGB.

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
        albedo = buffer.albedo[inside][wins]
        if index < len(paints):
            albedo = paints[index](albedo)
        picture[place][wins] = light.shade(buffer.normal[inside][wins], albedo)
        nearest[place][wins] = depth[wins]
        if index < len(objects):
            whole[index] = buffer.mask.sum()
            ids[place][wins] = index + 1
        else:
            ids[place][wins] = 0
    seen = np.bincount(ids.ravel(), minlength=len(objects) + 1)[1:]
    image = np.clip(picture, 0, 255).astype(np.uint8)
    return Scene(image, ids, seen / np.maximum(whole, 1), nearest, camera,
                 [pose for _, pose in objects])


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


def random_paint(rng):
    """
    Return a function of albedo (N, 3), RGB, that another copy of the same thing might have.

    A mesh's colours come from a scanner or a drawing: brightness, contrast, saturation and hue of
    the real thing differ.

    """
    gains = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.12, 3))
    gamma = np.float32(np.exp(rng.normal(0, 0.2)))
    saturation = rng.uniform(0.5, 1.6)
    angle = rng.normal(0, DYE) if rng.random() < DYED else 0.0
    mix = (gains[:, None] * color_matrix(angle, saturation)).T.astype(np.float32)

    def paint(albedo):
        color = (albedo.astype(np.float32) / 255) ** gamma
        return np.clip(color @ mix, 0, 1) * 255

    return paint


def color_matrix(angle, saturation):
    """
    Return the matrix (3, 3) that turns the hues of RGB columns and changes their saturation.

    Parameters
    ----------
    angle : float
        Radians, about the axis of greys (Rodrigues).
    saturation : float
        Factor; 0 leaves grey.

    """
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return grey + saturation * (np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross)


def dressed(body, colors):
    """Return a textured Mesh in other colours (N, 3), as much of each, the dark where it was."""
    grey, shape = body.texture.mean(-1).ravel(), body.texture.shape
    colors = colors[np.argsort(colors.mean(-1))]
    texture = np.empty((len(grey), 3), np.uint8)
    texture[np.argsort(grey)] = colors[np.arange(len(grey)) * len(colors) // len(grey)]
    return replace(body, texture=texture.reshape(shape))


def uneven_light(image, rng):
    """Return the image (H, W, 3) darker in places, some with an edge, as real lamps light it."""
    height, width = image.shape[:2]
    field = noise(rng, 24, 32, octaves=2, coarse=rng.uniform(1.5, 4))
    if rng.random() < 0.5:
        field = np.clip((field - 0.5) * rng.uniform(2, 12) + 0.5, 0, 1)
    field = cv2.resize(1 - field * np.float32(rng.uniform(0.1, 0.5)), (width, height),
                       interpolation=cv2.INTER_LINEAR)
    return (image * field[..., None]).astype(np.uint8)


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
    backgrounds : sequence of path
        Photographs to stand behind things now and then.

    """

    def __init__(self, meshes, rng, width=320, height=240, distances=(0.35, 1.5), empty=0.08,
                 backgrounds=()):
        self.names = tuple(meshes)
        self.rng = rng
        self.width, self.height = width, height
        self.distances = distances
        self.empty = empty
        self._backgrounds = tuple(backgrounds)
        self._casters = [RayCaster(mesh) for mesh in meshes.values()]
        self._resting = {id(caster): resting_directions(caster.mesh)
                         for caster in self._casters}
        self._colors = [surface_samples(mesh, 2000, 0)[2] for mesh in meshes.values()]
        self._bodies = [RayCaster(self._body(rng)) for _ in range(40)]
        self._pictures = body_bank(rng, 80, 96, self._body)

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
        self._bodies[rng.integers(len(self._bodies))] = RayCaster(self._body(rng))
        self._pictures[rng.integers(len(self._pictures))] = body_bank(rng, 1, 96, self._body)[0]
        # Ray casting gives hard edges; drawing finer and shrinking softens them.
        finer = float(rng.choice([1.25, 1.5, 2], p=(0.4, 0.45, 0.15)))
        width, height = int(self.width * finer), int(self.height * finer)
        focal = width * rng.uniform(0.75, 1.15)
        middle = np.array([width, height]) * rng.uniform(0.47, 0.53, 2)
        camera = PinholeCamera(np.array([[focal, 0, middle[0]], [0, focal, middle[1]],
                                         [0, 0, 1]]), width, height)
        light = Light.random(rng)
        # Few objects or many; now and then, with distractors alone, none.
        count = 0 if rng.random() < self.empty else int(rng.integers(2, 11))
        kinds = rng.integers(0, len(self.names), count)
        if count >= len(self.names) and rng.random() < 0.5:
            kinds[:len(self.names)] = np.arange(len(self.names))
        chosen = [self._casters[kind] for kind in kinds]
        clutter = [self._bodies[index] for index in
                   rng.integers(0, len(self._bodies), rng.integers(0, 9) + 3 * (count == 0))]
        if rng.random() < 0.8:
            table = self._table(camera)
            background = self._table_top(camera, table)
            crowd = self._crowd(camera, table)
            taken = []
            poses = self._stand(chosen, camera, table, crowd, taken)
            others = self._stand(clutter, camera, table, crowd, taken)
        else:
            table = None
            background = cv2.resize(self._background(), (width, height),
                                    interpolation=cv2.INTER_LINEAR)
            poses = [self._fly(camera) for _ in chosen]
            others = [self._fly(camera) for _ in clutter]
        if rng.random() < STREWN:
            strew(rng, background, self._pictures, rng.integers(5, 70), 0.03, 0.3)
        names = [self.names[kind] for kind, pose in zip(kinds, poses) if pose is not None]
        objects = [pair for pair in zip(chosen, poses) if pair[1] is not None]
        occluders = [pair for pair in zip(clutter, others) if pair[1] is not None]
        occluders += [self._before(pose) for _, pose in objects if rng.random() < 0.3]
        drawn = render_scene(objects, camera, light, background, occluders, table,
                             [random_paint(rng) for _ in objects])
        size = self.width, self.height
        image = cv2.resize(drawn.image, size, interpolation=cv2.INTER_AREA)
        ids = cv2.resize(drawn.ids, size, interpolation=cv2.INTER_NEAREST_EXACT)
        depth = cv2.resize(drawn.depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
        if rng.random() < 0.4:
            image = uneven_light(image, rng)
        return replace(drawn, image=photograph(image, rng), ids=ids, depth=depth,
                       camera=camera.resized(*size)), names

    def _body(self, rng):
        """Return the Mesh of a distractor, now and then in a known object's colours or skin."""
        if rng.random() < IMPOSTORS:
            caster = self._casters[rng.integers(len(self._casters))]
            return warped(caster.mesh, rng)
        body = random_body(rng, most_parts=5)
        if rng.random() < DECOYS:
            colors = self._colors[rng.integers(len(self._colors))]
            body = dressed(body, random_paint(rng)(colors))
        return body

    def _background(self):
        """Return a picture of the image's size: part of a photograph, or a procedural one."""
        rng = self.rng
        if not self._backgrounds or rng.random() < 0.5:
            return random_background(rng, self.height, self.width)
        path = self._backgrounds[rng.integers(len(self._backgrounds))]
        picture = cv2.imread(path, cv2.IMREAD_COLOR)
        if picture is None:
            raise InputError(f'{path}: expected a picture, got a file that cannot be read as one')
        height, width = picture.shape[:2]
        part = min(width / self.width, height / self.height) * rng.uniform(0.4, 1)
        wide, high = max(int(self.width * part), 1), max(int(self.height * part), 1)
        left, top = rng.integers(0, width - wide + 1), rng.integers(0, height - high + 1)
        cut = picture[top:top + high, left:left + wide, ::-1]
        return cv2.resize(np.ascontiguousarray(cut), (self.width, self.height),
                          interpolation=cv2.INTER_AREA)

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
        """
        Return a table in the middle of the view of an upright camera, 12 to 80 degrees above.

        Directions to the camera are uniform on that part of the sphere.

        """
        rng = self.rng
        elevation, roll = np.arcsin(rng.uniform(0.2, 0.985)), np.radians(rng.normal(0, 8))
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
        wall = cv2.resize(self._background(), (camera.width, camera.height))
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

    def _crowd(self, camera, table):
        """
        Return where things crowd on a table, or None: they stand wherever is room.

        Returns
        -------
        crowd : (array of shape (3,), float, float), or None
            Middle in the camera frame, its reach, and the height up to which things lie upon one
            another; metres.

        """
        rng = self.rng
        if rng.random() < 0.4:
            return None
        ray = camera.rays([rng.uniform(0.2, 0.8, 2) * (camera.width, camera.height)])
        if (ray @ table.normal)[0] > -0.02:
            return None
        heap = rng.uniform(0.03, 0.15) if rng.random() < 0.35 else 0.0
        return table.along(ray)[0], np.exp(rng.uniform(np.log(0.06), np.log(0.25))), heap

    def _stand(self, casters, camera, table, crowd, taken):
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
            heap = crowd[2] if crowd is not None else 0.0
            for _ in range(8):
                spot = self._spot(camera, table, crowd)
                if spot is None:
                    continue
                if caster not in self._casters and spot[2] < 4 * radius:
                    continue  # clutter that hides everything teaches nothing
                clear = all(np.linalg.norm(spot - other) > 0.6 * (radius + reach)
                            for other, reach in taken)
                if not clear and not heap and rng.random() < 0.95:
                    continue
                rotation = self._resting_rotation(caster, table.normal)
                lift = rng.uniform(0, heap) - ((vertices @ rotation.T) @ table.normal).min()
                if heap and rng.random() < 0.5:
                    rotation = random_rotations(rng, 1)[0]
                poses[-1] = Pose(rotation, spot + table.normal * lift)
                taken.append((spot, radius))
                break
        return poses

    def _spot(self, camera, table, crowd):
        """Return a point of the table in the image, or None if this throw misses it."""
        rng = self.rng
        if crowd is None:
            ray = camera.rays([rng.uniform(0, 1, 2) * (camera.width, camera.height)])
            if (ray @ table.normal)[0] > -0.02:
                return None
            spot = table.along(ray)[0]
        else:
            aside = rng.normal(0, crowd[1], 3)
            spot = crowd[0] + aside - table.normal * (aside @ table.normal)
        return spot if 0.8 * self.distances[0] < spot[2] < 1.2 * self.distances[1] else None

    def _resting_rotation(self, caster, normal):
        """Return R_m2c of a body at rest on a table, turned at random about its normal."""
        rng = self.rng
        if id(caster) in self._resting:
            ups, chances = self._resting[id(caster)]
            up = ups[rng.choice(len(ups), p=chances)]
        else:  # distractors are upright or lie on a side
            up = np.roll([0, 0, 1.0], rng.choice(3, p=(0.6, 0.2, 0.2))) * rng.choice([-1, 1])
        spin = Pose.from_rotvec(normal * rng.uniform(0, 2 * np.pi), np.zeros(3))
        return spin.R_m2c @ rotation_between(up, normal)
