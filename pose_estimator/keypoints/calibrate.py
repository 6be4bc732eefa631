"""
Measure a trained model anew on held-back virtual data, and fit its score to that.

    python -m pose_estimator calibrate models/cup.safetensors

Needed when the solver or the score has changed since the training; writes the card anew too.
The weights stay as they are.
"""

from pathlib import Path

from .checkpoint import Checkpoint
from .train import measure
from ..errors import InputError
from ..object_model import load_object


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument('models', nargs='+', metavar='MODEL', type=Path,
                        help='NAME.safetensors or NAME.mask.safetensors, with NAME.yaml beside it')


def run(args):
    """Run the command; return its exit code."""
    for path in args.models:
        checkpoint = Checkpoint.load(path)
        described = path.with_name(f'{checkpoint.model.name}.yaml')
        if not described.is_file():
            raise InputError(f'{described}: expected the object of {path.name}, to render it, '
                             'got no such file')
        _, mesh = load_object(described)
        measure(checkpoint, mesh, path)
    return 0
