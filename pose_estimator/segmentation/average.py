"""
The mean of several trainings' weights: one segmenter that is better than any of them.

    python -m pose_estimator average-segmenters models/*.yaml --weights a.safetensors b.safetensors

All must have the same classes and shape, and have begun with the same weights, or one with the
other: far apart, there is nothing good in between. What each has learned about virtual scenes
alone cancels out ("model soups", Wortsman et al. 2022); docs/segmentation.md tells what that is
worth on photographs.

"""

from datetime import date
from pathlib import Path
import shlex

import torch

from . import train
from .mask_rcnn import load_checkpoint, save_checkpoint
from ..devices import machine_name
from ..errors import InputError
from ..object_model import load_object


def add_arguments(parser):
    """Declare the options of `average-segmenters`."""
    parser.add_argument('objects', nargs='+', metavar='OBJECT.yaml',
                        help='the objects that they tell apart')
    parser.add_argument('--weights', nargs='+', type=Path, required=True, metavar='FILE',
                        help='two or more of train-segmenter')
    parser.add_argument('--output', type=Path, default=Path('models/segmenter.safetensors'),
                        help='weights to write (default: %(default)s)')


def run(args):
    """Average, evaluate on held-back scenes, write weights and card; return the exit code."""
    network, config, parts = mean_network(args.weights)
    meshes = {}
    for path in args.objects:
        model, mesh = load_object(path)
        meshes[model.name] = mesh
    if tuple(meshes) != config.labels:
        raise InputError(f'objects: expected those of the weights, in their order '
                         f'({", ".join(config.labels)}), got {", ".join(meshes)}')
    command = 'python -m pose_estimator average-segmenters ' + shlex.join(
        [*args.objects, '--weights', *map(str, args.weights), '--output', str(args.output)])
    facts = {'date': date.today().isoformat(), 'command': command,
             'machine': machine_name('cpu'), 'threads': torch.get_num_threads(),
             'minutes': round(sum(one.get('minutes') or 0 for one in parts), 1), 'mean_of': parts,
             'scores': train.evaluate(network, config, meshes, train.EVALUATED_SCENES)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(args.output, network, config, **facts)
    card = args.output.with_suffix('.md')
    card.write_text(train.model_card(config, facts))
    print(f'{args.output} and {card} written')
    return 0


def mean_network(paths):
    """
    Return a network whose weights are the mean of several files'.

    Parameters
    ----------
    paths : list of Path
        Of train-segmenter, at least two.

    Returns
    -------
    network : MaskRCNN
    config : MaskRCNNConfig
    facts : list of dict
        Of each file: command, date, time.

    Raises
    ------
    InputError
        For fewer files, and for files of different classes or shape.

    """
    if len(paths) < 2:
        raise InputError(f'--weights: expected two files or more, got {len(paths)}')
    loaded = [load_checkpoint(path) for path in paths]
    network, config, _ = loaded[0]
    for path, (_, other, _) in zip(paths, loaded):
        if other != config:
            raise InputError(f'{path}: expected the classes and shape of {paths[0]}, {config}, '
                             f'got {other}')
    states = [one.state_dict() for one, _, _ in loaded]
    network.load_state_dict({
        name: torch.stack([state[name] for state in states]).mean(0)
        if value.is_floating_point() else value for name, value in states[0].items()})
    kept = ('command', 'date', 'machine', 'minutes', 'steps', 'threads', 'start')
    return network, config, [{key: facts.get(key) for key in kept} for _, _, facts in loaded]
