"""Weights with everything that is needed to use them, in one safetensors file."""

from dataclasses import asdict, dataclass, field
import json
import os
from pathlib import Path
from typing import Optional

from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch

from .heatmaps import LOSSES
from .hourglass import HourglassConfig, StackedHourglass
from ..errors import InputError
from ..landmarks import Landmarks
from ..object_model import ObjectModel
from ..packing import packed, unpacked
from ..refinement.surface import Surface
from ..scoring import calibration_of, FEATURES

FORMAT = 'pose_estimator.keypoints.1'
INPUTS = ('mask', 'rgb_mask')


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """
    A trained keypoint network.

    Attributes
    ----------
    model : ObjectModel
        The object, its keypoints in the heatmaps' order.
    network_input : str
        'mask' or 'rgb_mask'.
    channels : tuple of str
        What the input channels are, e.g. ('rgb', 'mask').
    config : HourglassConfig
    margin : float
        Side of a crop over the longer side of the detection's box.
    loss : str
        A key of heatmaps.LOSSES.
    calibration : dict
        From what is seen of a pose to the chance that it is right; see scoring.py.
    weights : dict of tensors
        State of StackedHourglass.
    training : dict
        Command, samples, time, scores: for people.
    surface : Surface or None
        What the object looks like, to mend poses by; None for a network of masks alone.
    landmarks : Landmarks or None
        What is printed on it; None where that is too little, and for a network of masks alone.

    """

    model: ObjectModel
    network_input: str
    channels: tuple
    config: HourglassConfig
    margin: float
    loss: str
    calibration: dict
    weights: dict
    training: dict = field(default_factory=dict)
    surface: Optional[Surface] = None
    landmarks: Optional[Landmarks] = None

    @property
    def is_calibrated(self):
        """Whether score and distance were fitted by this version of the package."""
        ways = (True,) if self.surface is None else (True, False)
        fitted = [calibration_of(self.calibration, way) for way in ways]
        return ((self.surface is None) == (self.network_input == 'mask')
                and all(len(one.get('weights', ())) == len(FEATURES) and 'distance' in one
                        for one in fitted))

    def network(self):
        """Return the StackedHourglass with its weights, in eval mode."""
        network = StackedHourglass(self.config)
        network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                                 for name, tensor in self.weights.items()})
        return network.eval()

    def save(self, path):
        """
        Write the file all at once or not at all.

        Weights of convolutions are in 8 bits, others in half precision (docs/experiments.md).

        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {'format': FORMAT, 'object': self.model.to_dict(),
                 'network_input': self.network_input, 'channels': list(self.channels),
                 'config': asdict(self.config), 'margin': self.margin, 'loss': self.loss,
                 'calibration': self.calibration, 'training': self.training}
        weights = packed(self.weights)
        if self.surface is not None:
            weights.update(self.surface.to_tensors())
        if self.landmarks is not None:
            weights.update(self.landmarks.to_tensors())
        part = path.with_name(path.name + '.part')
        # Not save_file, which makes files that only their owner can read.
        part.write_bytes(save(weights, {'pose_estimator': json.dumps(about)}))
        os.replace(part, path)

    @classmethod
    def load(cls, path):
        """
        Read a file; nothing in it is executed.

        Raises
        ------
        InputError
            For a file that is missing, truncated, of another kind, or whose weights do not
            fit its own configuration.

        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f'{path}: expected a keypoint model, got no such file; train one: '
                             'python -m pose_estimator train OBJECT.yaml')
        try:
            with safe_open(path, 'pt') as stream:
                about = json.loads((stream.metadata() or {}).get('pose_estimator', '{}'))
                weights = unpacked({name: stream.get_tensor(name) for name in stream.keys()})
            surface = Surface.from_tensors(weights)
            landmarks = Landmarks.from_tensors(weights)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f'{path}: expected a keypoint model (safetensors), got a damaged '
                             f'or foreign file: {error}') from error
        if not isinstance(about, dict) or about.get('format') != FORMAT:
            got = about.get('format', 'none') if isinstance(about, dict) else 'none'
            raise InputError(f'{path}: expected a keypoint model of format {FORMAT}, got {got}')
        try:
            checkpoint = cls(ObjectModel.from_dict(about['object']), about['network_input'],
                             tuple(about['channels']), HourglassConfig(**about['config']),
                             float(about['margin']), about['loss'], about['calibration'],
                             weights, about['training'], surface, landmarks)
            if checkpoint.loss not in LOSSES or checkpoint.network_input not in INPUTS:
                raise ValueError(f'loss {checkpoint.loss!r}, input {checkpoint.network_input!r}')
            len(checkpoint.calibration['weights'])
            len(calibration_of(checkpoint.calibration, use_masks=False).get('weights', ()))
            with torch.device('meta'):
                expected = StackedHourglass(checkpoint.config).state_dict()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: damaged description of the model: {error!r}') from error
        for name, tensor in expected.items():
            if name.endswith('num_batches_tracked'):  # counts nothing that inference needs
                continue
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(f'{path}: weights do not fit the configuration, first {name}')
            if not torch.isfinite(weights[name]).all():
                raise InputError(f'{path}: expected finite weights, got NaN or infinity in {name}')
        return checkpoint
