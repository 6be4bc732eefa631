"""The demo's moving scene: a camera swings about a table with book, bottle and cup."""

from dataclasses import dataclass
from typing import Dict

import cv2
import numpy as np

from .meshes import builtin_mesh, CUP_RADIUS
from ..camera import PinholeCamera
from ..geometry import Pose
from ..mesh import make_mesh
from ..synthetic.backgrounds import random_background, random_texture
from ..synthetic.distractors import random_body
from ..synthetic.render import RayCaster
from ..synthetic.scene import Plane, render_scene
from ..synthetic.shading import Light

NAMES = ('book', 'bottle', 'cup')
# Where each stands on the table, x and y in metres, and how far it wanders and is lifted.
PLACES = {'book': (-0.15, -0.02), 'bottle': (0.10, 0.12), 'cup': (0.12, -0.11)}
WANDER, LIFT = 0.035, 0.05
# Farther out on the cup than this is its handle.
HANDLE_RADIUS = CUP_RADIUS + 0.002
DURATION = 48.0
# The cover needs so long for one object; then comes a rest.
PASS, REST = 5.0, 3.0
TABLE_SIDE, TABLE_PIXELS = 2.4, 1400


@dataclass(frozen=True, eq=False)
class DemoFrame:
    """
    One image of the demo and what is true of it.

    Attributes
    ----------
    image : array of uint8, shape (H, W, 3)
        RGB.
    poses : dict of name -> Pose
        Model to camera, metres.
    visible : dict of name -> float
        Pixels seen over the pixels of the whole silhouette, 0..1.
    cup_handle_visible : int
        Pixels of the cup's handle that are seen.

    """

    image: np.ndarray
    poses: Dict[str, Pose]
    visible: Dict[str, float]
    cup_handle_visible: int


class DemoScene:
    """
    A scene in which everything moves smoothly and begins anew after `duration` seconds.

    The camera swings about the table, the three objects wander, turn and tilt upon it, the
    light changes, and a box passes between them and the camera.

    Parameters
    ----------
    seed : int
        Fixes everything.

    Attributes
    ----------
    camera : PinholeCamera
    duration : float
        Seconds.

    """

    def __init__(self, seed=2020):
        self.seed = seed
        self.camera = PinholeCamera(np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1.0]]),
                                    640, 480)
        self.duration = DURATION
        rng = np.random.default_rng([seed, 600])
        self._casters = {name: RayCaster(builtin_mesh(name)) for name in NAMES}
        self._waves = {name: rng.uniform(0, 2 * np.pi, 6) for name in NAMES}
        self._turns = {name: int(rng.choice([-2, -1, 1, 2])) for name in NAMES}
        self._camera_wave = rng.uniform(0, 2 * np.pi, 4)
        self._lamp = rng.uniform(0, 2 * np.pi)
        self._warmth = rng.uniform(-0.06, 0.06)
        self._top = self._table_top(rng)
        self._clutter = [self._standing(rng, angle) for angle in
                         rng.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])]
        self._cover = RayCaster(_covering_box(rng))
        self._grain = np.clip(rng.normal(0, 2.5, (480 + 64, 640 + 64, 3)), -9, 9).astype(np.int8)

    def describe(self):
        """Return a sentence that says what is shown."""
        turns = ', '.join(f'{name} {count:+d}' for name, count in self._turns.items())
        return (f'demo scene, seed {self.seed}: {self.duration:.0f} s, the camera at 0.70 to '
                f'0.90 m swings about a table with {", ".join(NAMES)} (turns: {turns}), '
                f'{len(self._clutter)} bodies of clutter and a passing box; path, table and '
                'seed are not those of the training')

    def frame(self, time_s):
        """Return the DemoFrame at a time in seconds."""
        phase = 2 * np.pi * (time_s / self.duration % 1.0)
        world2camera = self._camera_pose(phase)
        poses = {name: world2camera.compose(self._object_pose(name, phase)) for name in NAMES}
        cover = self._cover_pose(time_s % self.duration, poses)
        objects = [(self._casters[name], poses[name]) for name in NAMES]
        others = [(caster, world2camera.compose(pose)) for caster, pose in self._clutter]
        if cover is not None:
            others.append((self._cover, cover))
        normal = world2camera.R_m2c[:, 2]
        table = Plane(normal, float(normal @ world2camera.t_m2c))
        drawn = render_scene(objects, self.camera, self._light(phase, world2camera),
                             self._background(world2camera), others, table)
        visible = {name: float(share) for name, share in zip(NAMES, drawn.visible)}
        return DemoFrame(self._taken(drawn.image, time_s), poses, visible,
                         self._handle_pixels(drawn, poses['cup']))

    def _camera_pose(self, phase):
        """Return the pose of the world (z up, the table at z = 0) in the camera."""
        wave = self._camera_wave
        azimuth = wave[0] + 1.3 * np.sin(phase + wave[1])
        elevation = np.radians(44 + 11 * np.sin(2 * phase + wave[2]))
        distance = 0.80 + 0.10 * np.sin(3 * phase + wave[3])
        target = np.array([0.02 * np.sin(2 * phase), 0.02 * np.cos(3 * phase), 0.05])
        eye = target + distance * np.array([np.cos(elevation) * np.cos(azimuth),
                                            np.cos(elevation) * np.sin(azimuth),
                                            np.sin(elevation)])
        ahead = (target - eye) / distance
        right = np.cross(ahead, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(ahead, right), ahead])
        return Pose(rotation, -rotation @ eye)

    def _object_pose(self, name, phase):
        """Return the pose of an object in the world."""
        wave = self._waves[name]
        x, y = PLACES[name] + WANDER * np.array([np.sin(2 * phase + wave[0]),
                                                 np.sin(3 * phase + wave[1])])
        spin = Pose.from_rotvec([0, 0, self._turns[name] * phase + wave[2]], np.zeros(3))
        # It is lifted and tilted for half of the time, and stands for the other half.
        raised = max(np.sin(3 * phase + wave[3]), 0) ** 2
        lean = 0.6 * raised * np.array([np.sin(wave[4]), np.cos(wave[4]), 0])
        tilt = Pose.from_rotvec(lean, np.zeros(3))
        rotation = tilt.compose(spin).R_m2c
        vertices = self._casters[name].mesh.vertices
        lowest = (vertices @ rotation[2]).min()
        return Pose(rotation, np.array([x, y, LIFT * raised - lowest]))

    def _cover_pose(self, time_s, poses):
        """Return where the passing box is, None while it rests; one object after the other."""
        turn, moment = divmod(time_s, PASS + REST)
        if moment > PASS:
            return None
        name = NAMES[int(turn) % len(NAMES)]
        target = poses[name].transform(self._casters[name].mesh.vertices.mean(0))
        along = moment / PASS * 2 - 1  # -1..1
        # It lingers in front of the object: slow in the middle, fast at the ends.
        sideways = 0.45 * np.sign(along) * abs(along) ** 1.5
        side = -1 if int(turn) % 2 else 1
        place = target * 0.72 + np.array([side * sideways, 0.05 * along, 0])
        return Pose.from_rotvec([0.4 * along, 0.5 * along, 0.3 + 0.8 * along], place)

    def _light(self, phase, world2camera):
        """Return a lamp above the table that wanders and changes, and a weak second one."""
        around = self._lamp + 0.8 * np.sin(phase)
        lamp = np.array([0.7 * np.cos(around), 0.7 * np.sin(around), 1.0])
        other = np.array([-0.9 * np.sin(around), 0.9 * np.cos(around), 0.6])
        directions = np.stack([lamp, other])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        tint = 1 + self._warmth * np.array([1, 0, -1])
        strength = 0.55 + 0.15 * np.sin(2 * phase + self._lamp)
        return Light((0.48 + 0.06 * np.cos(phase)) * tint, directions @ world2camera.R_m2c.T,
                     np.array([strength * tint, 0.15 / tint]), 0.25, 30.0)

    def _background(self, world2camera):
        """Return the table's top as the camera sees it; it goes on beyond its edges."""
        pixel = TABLE_SIDE / TABLE_PIXELS
        texture2world = np.array([[pixel, 0, -TABLE_SIDE / 2], [0, -pixel, TABLE_SIDE / 2],
                                  [0, 0, 0], [0, 0, 1]])
        homography = self.camera.K @ world2camera.matrix[:3] @ texture2world
        return cv2.warpPerspective(self._top, homography, (self.camera.width,
                                                           self.camera.height),
                                   borderMode=cv2.BORDER_REFLECT)

    def _handle_pixels(self, drawn, pose):
        """Count the pixels in which the cup's handle is seen."""
        rows, columns = np.nonzero(drawn.ids == NAMES.index('cup') + 1)
        rays = self.camera.rays(np.column_stack([columns, rows]))
        points = pose.inverse().transform(rays * drawn.depth[rows, columns, None])
        return int(np.count_nonzero(np.hypot(points[:, 0], points[:, 1]) > HANDLE_RADIUS))

    def _taken(self, image, time_s):
        """Return the image as a camera gives it: a little soft, with grain."""
        soft = cv2.GaussianBlur(image, (0, 0), 0.55)
        rng = np.random.default_rng([self.seed, round(time_s * 1000)])
        y, x = rng.integers(0, 64, 2)
        return cv2.add(soft, self._grain[y:y + image.shape[0], x:x + image.shape[1]],
                       dtype=cv2.CV_8U)

    @staticmethod
    def _table_top(rng):
        """Return the picture of a table with papers and other flat things upon it."""
        top = cv2.resize(random_texture(rng, TABLE_PIXELS // 2, TABLE_PIXELS // 2),
                         (TABLE_PIXELS, TABLE_PIXELS), interpolation=cv2.INTER_CUBIC)
        # Neither black nor glaring.
        top = (0.55 * top.astype(np.float32) + 0.45 * np.clip(top.mean((0, 1)), 80, 170))
        top = top.astype(np.uint8)
        for _ in range(9):
            width, height = rng.integers(60, 220, 2)
            sheet = random_background(rng, int(height), int(width))
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(0, 360), 1)
            turn[:, 2] += rng.uniform(0.2, 0.8, 2) * TABLE_PIXELS - (width / 2, height / 2)
            size = (TABLE_PIXELS, TABLE_PIXELS)
            cv2.warpAffine(sheet, turn, size, top, borderMode=cv2.BORDER_TRANSPARENT)
        return top

    @staticmethod
    def _standing(rng, angle):
        """Return a small body and its pose at the table's rim of the scene."""
        mesh = random_body(rng)
        while not 0.05 < np.ptp(mesh.vertices, axis=0).max() < 0.12:
            mesh = random_body(rng)
        place = 0.30 * np.array([np.cos(angle), np.sin(angle), 0])
        spin = Pose.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)], np.zeros(3)).R_m2c
        return RayCaster(mesh), Pose(spin, place - [0, 0, mesh.vertices[:, 2].min()])


def _covering_box(rng):
    """Return the box that passes in front of the objects."""
    half = np.array([0.085, 0.11, 0.025])
    corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) * half
    quads = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    square = np.array([[0.05, 0.05], [0.95, 0.05], [0.95, 0.95], [0.05, 0.95]])
    vertices = corners[np.ravel(quads)]
    faces = [np.array(face) + 4 * side for side in range(6) for face in ((0, 1, 2), (0, 2, 3))]
    return make_mesh(vertices, faces, uv=np.tile(square, (6, 1)),
                     texture=random_background(rng, 256, 256))
