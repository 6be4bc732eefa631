"""Poses mended by comparing a drawing of the object with the photograph."""

from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
from typing import Optional

import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch

from .flow import CHANNELS, LEAST_CELLS, network_input, OUTPUTS, read, settle
from .surface import draw, DRAWN, MARGIN
from .. import assets
from ..camera import CropCamera
from ..devices import torch_device
from ..errors import InputError
from ..geometry import Pose
from ..keypoints.hourglass import fold_batch_norms, HourglassConfig, StackedHourglass
from ..packing import packed, unpacked
from ..runtimes import fastest, RUNTIMES

FORMAT = 'pose_estimator.refiner.2'
FILE = 'refiner.safetensors'
# Drawings are compared so often, each with the pose that the one before gave.
ROUNDS = 2
# Nor do those between whose motions no better a difference is than this (1: all independent).
LEAST_FIXED = 1e-9


@dataclass(frozen=True, eq=False)
class Refined:
    """
    What became of a pose.

    Attributes
    ----------
    pose : Pose
        Model to camera.
    covariance : array, shape (6, 6)
        As if cells erred independently of one another, as in pnp.PnPResult.
    error : float
        Shift that the network expects to be wrong by, geometric mean over the cells, relative
        to the crop's side.
    rest : float
        Mean shift that was left to do in the last round, likewise.
    moved : float
        Mean shift of the surface's points from the first pose to the last, likewise.
    unexplained : float
        Mean of what no pose explains of the last shifts over what they were expected to err.

    """

    pose: Pose
    covariance: np.ndarray
    error: float
    rest: float
    moved: float
    unexplained: float

    def features(self):
        """Return what the score is made of, shape (4,)."""
        return np.log(np.maximum([self.error, self.rest, self.moved, self.unexplained], 1e-4))


# Features of a pose that could not be refined, or was not meant to be.
NOT_REFINED = np.zeros(4)


class Refiner:
    """
    Runs a trained network, the same for every object.

    Parameters
    ----------
    config : HourglassConfig
    weights : dict of tensors
        State of StackedHourglass.
    training : dict
        Command, samples, time, scores: for people.
    device : str
        Of torch.

    Attributes
    ----------
    weights : dict of tensors
        As given, in float32, for a training to go on from.

    """

    def __init__(self, config, weights, training=None, device='cpu'):
        self.config = config
        self.training = training or {}
        self.device = torch_device(device)
        network = StackedHourglass(config)
        missing = [name for name in network.state_dict()
                   if name not in weights and not name.endswith('num_batches_tracked')]
        if missing:
            raise InputError(f'weights do not fit the configuration, first {missing[0]}')
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                                 for name, tensor in weights.items()}, strict=False)
        self.weights = network.state_dict()
        network = fold_batch_norms(network)
        network = network.to(self.device, memory_format=torch.channels_last)
        self._run = RUNTIMES[fastest(self.device)](network)

    def __reduce__(self):
        """Let other processes have it, which make of the weights what they run."""
        return type(self), (self.config, self.weights, self.training, str(self.device))

    @classmethod
    def shipped(cls, device='cpu'):
        """Return the one that the package ships."""
        return cls.load(assets.find('models') / FILE, device)

    @classmethod
    def beside(cls, directory, device='cpu'):
        """Return the one in a directory of models, where there is one, or else the shipped."""
        path = Path(directory) / FILE
        return cls.load(path, device) if path.is_file() else cls.shipped(device)

    @property
    def fingerprint(self):
        """A few letters that tell these weights from others."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            if tensor.is_floating_point():
                digest.update(name.encode() + tensor.half().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @classmethod
    def load(cls, path, device='cpu'):
        """
        Read a file that save_refiner wrote; nothing in it is executed.

        Raises
        ------
        InputError
            For a file that is missing, damaged or of another kind.

        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f'{path}: expected the weights of the refinement, got no such file; '
                             'train them: python -m pose_estimator train-refiner OBJECT.yaml ...')
        device = torch_device(device)
        try:
            config, weights, training = _read_file(path)
            return cls(config, weights, training, device)
        except (SafetensorError, InputError, OSError, KeyError, TypeError, ValueError,
                RuntimeError) as error:
            raise InputError(f'{path}: expected the weights of the refinement, got a damaged or '
                             f'foreign file: {error}') from error

    def refine(self, surfaces, poses, image, masks, camera, rounds=ROUNDS):
        """
        Mend poses.

        Parameters
        ----------
        surfaces : list of Surface
            Of the N objects.
        poses : list of Pose
            Model to camera.
        image : array of uint8, shape (height, width, 3)
            RGB.
        masks : list of arrays of bool, shape (height, width)
            The segmenter's; empty ones: none is to be shown to the network.
        camera : PinholeCamera
            The one that took the image.
        rounds : int
            How often drawings are made and compared.

        Returns
        -------
        list of Refined or None
            None where nothing came of it.

        """
        found: list[Optional[Refined]] = [None] * len(poses)
        current = dict(enumerate(poses))
        masks = [mask.view(np.uint8) * np.uint8(255) for mask in masks]
        for _ in range(rounds):
            crops = {index: _crop_about(surfaces[index].points, pose, camera,
                                        self.config.input_size)
                     for index, pose in current.items()}
            for index in [index for index, crop in crops.items() if crop is None]:
                found[index] = None
                del crops[index], current[index]
            if not crops:
                break
            seen = self._look([surfaces[index] for index in crops], list(crops.values()),
                              [current[index] for index in crops], image,
                              [masks[index] for index in crops])
            for (index, crop), (points, shift, error) in zip(crops.items(), seen):
                one = _follow_shifts(current[index], crop, points, shift, error, poses[index],
                                     surfaces[index].points)
                found[index] = one
                if one is None:
                    del current[index]
                else:
                    current[index] = one.pose
        return found

    @torch.inference_mode()
    def _look(self, surfaces, crops, poses, image, masks):
        """Return for each crop points (n, 3), shifts (n, 2) and expected errors (n,)."""
        def tensor(arrays):
            return torch.from_numpy(np.stack(arrays)).to(self.device)

        turned = [crop.R_cam2crop for crop in crops]
        points, look = zip(*[surface.tensors(self.device) for surface in surfaces])
        drawn = draw(
            torch.stack(points), torch.stack(look),
            tensor([turn @ pose.R_m2c for turn, pose in zip(turned, poses)]).float(),
            tensor([turn @ pose.t_m2c for turn, pose in zip(turned, poses)]).float(),
            tensor([crop.K for crop in crops]).float(), self.config.input_size)
        rgb = tensor([crop.crop(image) for crop in crops]).permute(0, 3, 1, 2) / 255
        mask = tensor([crop.crop(mask) for crop, mask in zip(crops, masks)])[:, None] / 255
        shift, error = read(self._run(network_input(rgb, mask, drawn.pixels))[-1])
        return [(points[there].cpu().double().numpy(), one[there].cpu().double().numpy(),
                 sure[there].cpu().double().numpy())
                for points, one, sure, there in zip(drawn.points, shift, error, drawn.is_seen)]


def _read_file(path):
    """Return configuration, weights and facts of a file; see Refiner.load for its errors."""
    with safe_open(path, 'pt') as stream:
        about = json.loads((stream.metadata() or {}).get('pose_estimator', '{}'))
        weights = unpacked({name: stream.get_tensor(name) for name in stream.keys()})
    if not isinstance(about, dict) or about.get('format') != FORMAT:
        raise ValueError(f'not of format {FORMAT}')
    config = HourglassConfig.from_dict(about['config'])
    if (config.in_channels, config.keypoints) != (CHANNELS, OUTPUTS):
        raise ValueError(f'{config.in_channels} channels in and {config.keypoints} out')
    if config.heatmap_size != DRAWN // 2:
        raise ValueError(f'expected {DRAWN // 2} x {DRAWN // 2} cells as drawings have, got '
                         f'{config.heatmap_size}')
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f'NaN or infinity in {name}')
    return config, weights, about['training']


def _crop_about(points, pose, camera, size):
    """Return the CropCamera that looks at a drawn object, None where there is none to see."""
    seen = pose.transform(points)
    if not np.isfinite(seen).all() or (seen[:, 2] <= 1e-3).any():
        return None
    pixels = camera.project(seen)
    low, high = pixels.min(0), pixels.max(0)
    if not np.isfinite([low, high]).all() or not (high - low > 2).all():
        return None
    return CropCamera.look_at(camera, np.concatenate([low, high]), size, MARGIN)


def _follow_shifts(pose, crop, points, shift, error, first, surface):
    """Return the Refined of a round, None where nothing came of it."""
    if len(points) < LEAST_CELLS:
        return None
    turn = crop.R_cam2crop
    here = Pose(turn @ pose.R_m2c, turn @ pose.t_m2c)
    try:
        mended, normal, away = settle(here, points, shift, error, crop.K)
        covariance = _inverse(normal)
    except np.linalg.LinAlgError:
        return None
    # In front of the camera that looks at the object, and of the one that took the image.
    placed = mended.transform(surface)
    if not np.isfinite(placed).all() or (placed[:, 2] <= 1e-3).any() or (
            placed @ turn[:, 2] <= 1e-3).any():
        return None
    back = np.kron(np.eye(2), turn.T)

    def pixels(one):
        seen = one.transform(surface) @ crop.K.T
        return seen[:, :2] / seen[:, 2:]

    begun = Pose(turn @ first.R_m2c, turn @ first.t_m2c)
    moved = np.linalg.norm(pixels(mended) - pixels(begun), axis=1).mean()
    return Refined(Pose(turn.T @ mended.R_m2c, turn.T @ mended.t_m2c),
                   back @ covariance @ back.T, float(np.exp(np.log(error).mean()) / crop.size),
                   float(np.linalg.norm(shift, axis=1).mean() / crop.size),
                   float(moved / crop.size), float((away / error).mean()))


def _inverse(normal):
    """Return the inverse of a (6, 6); LinAlgError where some motion changes next to nothing."""
    scale = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    even = normal / np.outer(scale, scale)
    if not np.isfinite(even).all() or np.linalg.eigvalsh(even)[0] < LEAST_FIXED:
        raise np.linalg.LinAlgError('the shifts fix no pose')
    return np.linalg.inv(even) / np.outer(scale, scale)


def save_refiner(path, config, weights, training):
    """Write the file, in 8 bits (docs/experiments.md), all at once or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {'format': FORMAT, 'config': asdict(config), 'training': training}
    stored = packed({name: tensor for name, tensor in weights.items()
                     if tensor.is_floating_point()})
    part = path.with_name(path.name + '.part')
    part.write_bytes(save(stored, {'pose_estimator': json.dumps(about)}))
    os.replace(part, path)
