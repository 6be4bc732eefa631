"""
Measure how steady poses are from frame to frame, on a virtual video with known poses.

    python -m pose_estimator stability config/objects/cup.yaml \
        --paper out/paper/cup.mask.safetensors --output docs/accuracy/stability.png

A camera orbits the object at the speed of a hand; sensor and mask are noisy. With `--still`
nothing moves, and the poses are also given as smoothing leaves them. `--paper` adds the setting of
Pujolle & Hayashi 2020 (masks alone, l2 loss, the heatmaps' maxima, plain PnP), with weights from
`train OBJECT.yaml --input mask --loss l2`.
"""

from dataclasses import dataclass
import itertools
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from . import assets
from .camera import CropCamera, PinholeCamera
from .errors import InputError
from .geometry import Pose
from .instance import Instance, mask_box
from .keypoints.checkpoint import Checkpoint
from .keypoints.predictor import KeypointPredictor
from .object_model import load_object
from .pipeline import find_models, PoseEstimator
from .pose_error import re
from .smoothing import Smoother
from .synthetic.backgrounds import random_background
from .synthetic.render import RayCaster
from .synthetic.scene import render_scene
from .synthetic.shading import Light

FRAMES, RATE = 300, 30.0
# A change of the rotation from one frame to the next by more than this is a flip.
FLIP = 30.0


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """An image, what a segmenter says of it, and the true pose."""

    image: np.ndarray
    instance: Instance
    pose: Pose


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('object', type=Path, help='object YAML')
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='folder of trained models (default: those of the package)')
    parser.add_argument('--paper', type=Path, metavar='MODEL',
                        help="weights for the paper's setting")
    parser.add_argument('--still', action='store_true',
                        help='nothing moves; poses with and without smoothing')
    parser.add_argument('--output', type=Path, metavar='PNG', help='plot')


def run(args):
    """Carry out the command; return the exit code."""
    model, mesh = load_object(args.object)
    models = args.models or assets.find('models')
    frames = list(tqdm(video(model, mesh, still=args.still), total=FRAMES, desc='rendering',
                       unit='frame'))
    settings = {}
    for network_input in ('rgb_mask', 'mask'):
        if model.name in find_models(models, network_input):
            estimator = PoseEstimator.from_directory(models, network_input, min_score=0.0,
                                                     objects=[model.name])
            settings[f'`{network_input}`'] = _ours(estimator), network_input
            if args.still:
                settings[f'`{network_input}`, smoothed'] = \
                    _ours(estimator, Smoother()), network_input
    if args.paper:
        settings["the paper's"] = _paper(Checkpoint.load(args.paper)), 'mask'
    if not settings:
        raise InputError(f'{models}: expected a model of {model.name}, got none')
    print('| setting | rotation changes by (median, 95 %) | translation changes by (median, '
          '95 %) | flips per 1,000 frames | median error | no pose |')
    print('|---|--:|--:|--:|--:|--:|')
    tracks = {}
    for name, (estimate, network_input) in settings.items():
        symmetries = model.symmetries_for(network_input).transforms(72)
        poses = [estimate(frame) for frame in tqdm(frames, desc=name, unit='frame')]
        tracks[name] = _errors(poses, frames, symmetries)
        print(_row(name, *tracks[name]))
    if args.output:
        _draw(args.output, tracks)
    return 0


def video(model, mesh, seed=11, still=False):
    """Yield the VideoFrames of a camera that orbits an object, or stands still before it."""
    rng = np.random.default_rng(seed)
    camera = video_camera()
    caster = RayCaster(mesh)
    background = random_background(rng, camera.height, camera.width)
    background = cv2.GaussianBlur(background, (0, 0), 1.5)
    light = Light(np.full(3, 0.5), np.array([[0.3, -0.7, -0.65]]), np.array([np.full(3, 0.6)]),
                  0.2, 30.0)
    wave = rng.uniform(0, 2 * np.pi, 6)
    for index in range(FRAMES):
        moment = 0.0 if still else index / RATE
        pose = _orbit(model, moment, wave)
        drawn = render_scene([(caster, pose)], camera, light, background)
        noisy = drawn.image + rng.normal(0, 4, drawn.image.shape)
        mask = _noisy_mask(drawn.ids == 1, rng)
        yield VideoFrame(noisy.clip(0, 255).astype(np.uint8),
                         Instance(model.name, 1.0, mask_box(mask), mask, 1), pose)


def video_camera():
    """Return the camera of the video."""
    return PinholeCamera(np.array([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]), 640, 480)


def _orbit(model, moment, wave):
    """Return the object's pose in a camera that orbits it by half a radian a second."""
    azimuth = 0.5 * moment + wave[0]
    elevation = np.radians(40 + 12 * np.sin(0.8 * moment + wave[1]))
    distance = 5.5 * model.diameter * (1 + 0.1 * np.sin(0.6 * moment + wave[2]))
    eye = distance * np.array([np.cos(elevation) * np.cos(azimuth),
                               np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    target = 0.1 * model.diameter * np.sin(np.array([2.1, 1.7, 2.6]) * moment + wave[3:])
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return Pose(rotation, -rotation @ (eye + model.center))


def _noisy_mask(mask, rng):
    """Return a mask whose outline wobbles anew in each frame."""
    height, width = mask.shape
    noise = cv2.resize(rng.normal(0, 1, (height // 12, width // 12)).astype(np.float32),
                       (width, height), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3.0)
    return soft + 0.15 * noise * (4 * soft * (1 - soft)) > 0.5 + rng.uniform(-0.15, 0.15)


def _ours(estimator, smoother=None):
    camera, moments = video_camera(), itertools.count()

    def estimate(frame):
        image = frame.image if estimator.needs_image else None
        found = estimator.estimate(image, [frame.instance], camera)[0]
        moment = next(moments) / RATE
        if smoother is None or found.pose is None:
            return found.pose
        return smoother.update(found.pose, found.covariance, moment)
    return estimate


def _paper(checkpoint):
    """Return the paper's estimate: one crop, the maxima of the heatmaps, solvePnP on all."""
    predictor, camera = KeypointPredictor(checkpoint), video_camera()
    if checkpoint.network_input != 'mask':
        raise InputError(f'--paper: expected a model of masks alone, got one of '
                         f'{checkpoint.network_input}')

    def estimate(frame):
        crop = CropCamera.look_at(camera, frame.instance.box, predictor.size, checkpoint.margin)
        mask = crop.crop(frame.instance.mask.view(np.uint8) * np.uint8(255))
        heatmaps = predictor.predict(None, mask[None]).heatmaps[0]
        side = heatmaps.shape[-1]
        place = heatmaps.reshape(len(heatmaps), -1).argmax(1)
        stride = predictor.size / side
        pixels = (np.stack([place % side, place // side], 1) + 0.5) * stride - 0.5
        found, rotvec, translation = cv2.solvePnP(checkpoint.model.keypoints, pixels, crop.K,
                                                  None)
        if not found or translation[2, 0] <= 0:
            return None
        back = Pose(crop.R_cam2crop.T, np.zeros(3))
        return back.compose(Pose.from_rotvec(rotvec, translation))
    return estimate


def _errors(poses, frames, symmetries):
    """
    Return errors frame by frame.

    Returns
    -------
    rotation : array, shape (N,)
        Degrees, up to symmetry; NaN without a pose.
    jitter : array, shape (N - 1, 2)
        Change of the rotation's error in degrees, of the translation's in millimetres.

    """
    rotation = np.array([np.nan if pose is None else re(pose, frame.pose, symmetries)
                         for pose, frame in zip(poses, frames)])
    jitter = np.full((len(poses) - 1, 2), np.nan)
    for index in range(len(poses) - 1):
        first, second = poses[index], poses[index + 1]
        if first is None or second is None:
            continue
        # Where the second pose would have to be, were its error that of the first.
        moved = frames[index + 1].pose.compose(frames[index].pose.inverse().compose(first))
        jitter[index] = (re(second, moved, symmetries),
                         1e3 * np.linalg.norm((second.t_m2c - frames[index + 1].pose.t_m2c)
                                              - (first.t_m2c - frames[index].pose.t_m2c)))
    return rotation, jitter


def _row(name, rotation, jitter):
    seen = jitter[np.isfinite(jitter).all(1)]
    turn, move = seen.T
    flips = 1000 * np.mean(turn > FLIP)
    return (f'| {name} | {np.median(turn):.1f}, {np.quantile(turn, 0.95):.1f} deg | '
            f'{np.median(move):.1f}, {np.quantile(move, 0.95):.1f} mm | {flips:.0f} | '
            f'{np.nanmedian(rotation):.1f} deg | {100 * np.isnan(rotation).mean():.0f} % |')


def _draw(path, tracks):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axis = pyplot.subplots(figsize=(8, 3.2), dpi=90)
    for name, (rotation, _) in tracks.items():
        axis.plot(np.arange(len(rotation)) / RATE, rotation, label=name.strip('`'), linewidth=1)
    axis.set(xlabel='s', ylabel='rotation error in degrees', yscale='log', ylim=(0.3, 200))
    axis.legend(loc='upper right', fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
