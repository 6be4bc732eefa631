"""
Train a keypoint network from a mesh, on virtual images alone.

    python -m pose_estimator train config/objects/cup.yaml
    python -m pose_estimator train config/objects/cup.yaml --input mask --minutes 5
    python -m pose_estimator train --mesh drill.ply --unit mm --name drill
    python -m pose_estimator train config/objects/book.yaml --start models/cup.safetensors
    torchrun --nproc-per-node 4 -m pose_estimator train config/objects/cup.yaml

Interrupted (Ctrl-C, kill), the same command goes on where it was.
"""

import copy
from dataclasses import asdict, dataclass, field, fields, replace
import datetime
import math
import os
from pathlib import Path
import platform
import shlex
import sys
import time

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
import yaml

from .checkpoint import Checkpoint
from .heatmaps import encode, LOSSES, symmetric_loss
from .hourglass import HourglassConfig, StackedHourglass
from .inputs import prepare_input
from .report import evaluate_virtually, FIELD, write_report
from .. import assets, learning
from ..devices import (
    agree, has_fast_bfloat16, join_processes, keep_freed_memory, processor_name, training_device)
from ..errors import InputError
from ..landmarks import Landmarks
from ..object_model import bop_symmetries, DEFAULT_KEYPOINTS, load_object, object_from_mesh, UNITS
from ..pipeline import RESERVED, SUFFIX
from ..refinement.refiner import Refiner
from ..refinement.surface import Surface
from ..sighting import fit_sighted
from ..synthetic.backgrounds import background_bank
from ..synthetic.crops import CHANNELS, CropConfig, CropSampler
from ..synthetic.distractors import body_bank, clutter
from ..synthetic.views import appearance_views, silhouette_views

DEFAULT_MINUTES = 24.0
# What has learned most of what the package ships: the mean of their weights is a better start than
# those of one alone or random ones, whatever the object (docs/experiments.md). All of an input go
# back to the same weights, without which a mean would be none.
BASES = tuple(f'obj_{number:06d}' for number in (1, 5, 6, 8, 10, 12))
# Shapes of the networks. To know a thing by its colours takes more than by its outline.
NETWORKS: dict[str, dict[str, int]] = {'mask': {}, 'rgb_mask': {'width': 96, 'stem_blocks': 1}}
# Crops in a step on a CPU and on a GPU, where small steps are mostly waiting; so many at most are
# made at once, since some faults are the same in all of them.
BATCH, GPU_BATCH, DRAWN = 32, 256, 128
SAVE_EVERY = 60.0  # seconds
HISTORY = 150  # points of the loss curve that are kept
# From random weights, crops are easy at first, at this share of all faults; between these shares
# of the training they become harder, until at last they are anything from easy to as hard as can
# be. Weights of another object have no need of that.
EASY, HARDER = 0.2, (0.35, 0.8)
# In a long training after so many crops at the latest.
HARDER_CROPS = (60_000, 200_000)
# Scores are fitted to masks that are worse than those that are learned from, and mostly too small:
# sure of itself is only who has seen worse.
HELD_BACK: dict = {
    'mask_exact': 0.0, 'mask_dropped': 0.3, 'mask_eroded': 0.04, 'mask_dilated': 0.01,
    'mask_part_lost': 0.15}
# Landmarks that find no more than these, percent of the virtual poses, are not worth their time.
LEAST_SIGHTED = 1.0
# Set apart by seed: what is trained on, and what the report is measured on.
TRAIN_SEED, REPORT_SEED = 0, 1_000_003


@dataclass(frozen=True)
class TrainConfig:
    """
    How to train; the same for every object.

    Attributes
    ----------
    network_input : str
        'rgb_mask' or 'mask'.
    minutes : float
        Time to spend, rendering included; 0: as many samples as `samples`.
    samples : int
        Crops to train on; 0: as long as `minutes`.
    views : int
        Rendered views that crops are cut from.
    batch : int
        Crops a step and process.
    rate : float
        Highest learning rate of AdamW.
    muon_rate : float
        That of Muon, which takes the convolutions inside.
    loss : str
        A key of heatmaps.LOSSES.
    start : tuple of str
        Weights to begin with, files of any object, of several their mean; (): random ones.
    network : HourglassConfig
    crops : CropConfig

    """

    network_input: str = 'rgb_mask'
    minutes: float = DEFAULT_MINUTES
    samples: int = 0
    views: int = 2048
    batch: int = BATCH
    rate: float = 2e-3
    muon_rate: float = 0.04
    loss: str = 'cross_entropy'
    start: tuple[str, ...] = ()
    network: HourglassConfig = field(default_factory=HourglassConfig)
    crops: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self):
        if self.network_input not in CHANNELS:
            raise InputError(f'input: expected one of {", ".join(CHANNELS)}, '
                             f'got {self.network_input!r}')
        if self.loss not in LOSSES:
            raise InputError(f'loss: expected one of {", ".join(LOSSES)}, got {self.loss!r}')
        if self.minutes < 0 or self.samples < 0 or not self.minutes + self.samples > 0:
            raise InputError('minutes, samples: expected one of them above 0, got '
                             f'{self.minutes} and {self.samples}')
        if self.views < 1:
            raise InputError(f'views: expected at least 1, got {self.views}')
        if self.network.input_size != self.crops.size:
            raise InputError(f'input_size of the network and size of the crops: expected the '
                             f'same, got {self.network.input_size} and {self.crops.size}')


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument('object', nargs='?', help='object YAML (or --mesh)')
    parser.add_argument('--mesh', help='mesh: PLY, OBJ, GLB, STL, DAE')
    parser.add_argument('--unit', help=f'unit of the mesh: {", ".join(UNITS)}')
    parser.add_argument('--name', help="the object's name; default: the mesh's file name")
    parser.add_argument('--bop-id', type=int, help='number in BOP; default: N of obj_N')
    parser.add_argument('--symmetries', metavar='FILE',
                        help="BOP's models_info.json; default: the one beside the mesh")
    parser.add_argument('--input', default='rgb_mask', choices=list(CHANNELS),
                        help='what the network sees (default: %(default)s)')
    parser.add_argument('--output', default='models', metavar='DIR',
                        help='where the model goes (default: %(default)s)')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--minutes', type=float,
                        help=f'time to spend, rendering included (default: {DEFAULT_MINUTES:g})')
    budget.add_argument('--samples', type=int, help='crops to train on')
    parser.add_argument('--device', default='auto', help='cpu, cuda, ... (default: %(default)s)')
    parser.add_argument('--loss', default='cross_entropy', choices=list(LOSSES),
                        help="l2 is the paper's (default: %(default)s)")
    parser.add_argument('--network', nargs='+', default=[], metavar='KEY=N',
                        help='shape of the network: '
                        + ', '.join(one.name for one in fields(HourglassConfig)
                                    if one.name not in ('in_channels', 'keypoints')))
    parser.add_argument('--start', metavar='FILE', nargs='+', default=['auto'],
                        help='begin with the weights of another model, of any object, or with the '
                        'mean of several that go back to the same; none: with random ones '
                        '(default: the mean of those of other objects that the package ships, '
                        'for a network of their shape)')
    parser.add_argument('--views', type=int, default=2048,
                        help='rendered views to cut crops from (default: %(default)s)')


def run(args):
    """Run the command; return its exit code."""
    model, mesh, source = load_target(args)
    shape = {}
    for pair in args.network:
        key, _, value = pair.partition('=')
        if not value.isdigit() or key in ('in_channels', 'keypoints'):
            raise InputError(f'--network: expected KEY=N with a key that --help lists, got '
                             f'{pair!r}')
        shape[key] = int(value)
    channels = sum({'rgb': 3, 'mask': 1}[name] for name in CHANNELS[args.input])
    network = HourglassConfig.from_dict({**NETWORKS[args.input], **shape, 'in_channels': channels,
                                         'keypoints': len(model.keypoints)})
    minutes = args.minutes
    if minutes is None:
        minutes = DEFAULT_MINUTES if args.samples is None else 0
    start = () if args.start == ['none'] else tuple(args.start)
    if start == ('auto',):
        start = shipped_start(args.input, args.loss, network, model)
    device = training_device(args.device)
    config = TrainConfig(
        args.input, minutes=minutes, samples=args.samples or 0, views=args.views,
        batch=BATCH if device.type == 'cpu' else GPU_BATCH,
        loss=args.loss, start=start, network=network,
        crops=CropConfig(size=network.input_size))
    train(model, mesh, config, Path(args.output), device, source)
    return 0


def shipped_start(network_input, loss, network, model):
    """
    Return the paths of shipped weights to begin with, for a network of this shape.

    Those of the object itself are not among them: a retrained one is to be worth what a new one
    would be.

    """
    found = []
    for name in BASES:
        path = assets.find('models') / (name + SUFFIX[network_input])
        if not path.is_file():
            continue
        base = Checkpoint.load(path)
        fits = replace(base.config, keypoints=network.keypoints) == network and base.loss == loss
        if fits and not _is_same_object(base.model, model):
            found.append(str(path))
    return tuple(found)


def load_target(args):
    """Return the model, its mesh, and what the object YAML beside the weights will say."""
    if bool(args.object) == bool(args.mesh):
        raise InputError('expected an object YAML or --mesh FILE, got '
                         + ('both' if args.object else 'neither'))
    given: dict = {}
    if args.bop_id is not None:
        given['bop_id'] = args.bop_id
    if args.name:
        given['name'] = args.name
    if args.unit:
        given['unit'] = args.unit
    if args.object:
        model, mesh = load_object(args.object, **given)
        source = {**yaml.safe_load(Path(args.object).read_text()), **given}
        path = str(source['mesh'])
        if not path.startswith('builtin:') and not os.path.isabs(path):
            path = str(Path(args.object).parent / path)
    else:
        if not args.unit:
            raise InputError(f'--unit: expected the unit of the mesh ({", ".join(UNITS)}), '
                             'got none: a mesh does not say')
        path = args.mesh
        model, mesh = object_from_mesh(path, **given)
        source = {'unit': args.unit, 'bop_id': model.bop_id, 'keypoints': DEFAULT_KEYPOINTS}
        found = bop_symmetries(Path(path).parent / 'models_info.json', model.bop_id,
                               args.unit)
        if found:
            source['symmetries'] = found
    if args.symmetries:
        if not Path(args.symmetries).is_file():
            raise InputError(f'--symmetries: expected models_info.json, got no such file: '
                             f'{args.symmetries}')
        if model.bop_id is None:
            raise InputError('--symmetries: expected --bop-id N with it, got none')
        source['symmetries'] = bop_symmetries(args.symmetries, model.bop_id, source['unit'])
        if not source['symmetries']:
            raise InputError(f'--symmetries: expected object {model.bop_id} in '
                             f'{args.symmetries}, got none of that number')
        model, mesh = object_from_mesh(
            path, **{key: value for key, value in source.items() if key != 'mesh'},
            **({} if 'name' in source else {'name': model.name}))
    if not path.startswith('builtin:'):
        path = os.path.relpath(path, args.output)
    return model, mesh, {**source, 'name': model.name, 'mesh': path}


class _Crops(IterableDataset):
    """An endless stream of batches, each worker with a seed of its own; harder and harder."""

    def __init__(self, make_sampler, batch, seed):
        self.make_sampler, self.batch, self.seed = make_sampler, batch, seed
        self.severity = torch.zeros(1).share_memory_()  # also seen by the workers

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        seed = self.seed + (worker.id if worker else 0)
        sampler, rng = self.make_sampler(seed), np.random.default_rng(seed)
        config = sampler.config
        while True:
            parts = []
            for begin in range(0, self.batch, DRAWN):
                # Clear crops among the hard ones keep the network exact.
                share = rng.uniform(EASY, 1)
                sampler.config = config.eased(self.severity.item() * share)
                crops = sampler.batch(min(DRAWN, self.batch - begin))
                parts.append((prepare_input(crops.rgb, crops.mask), crops.keypoints))
            yield tuple(map(torch.cat, zip(*parts)))


def train(model, mesh, config, output, device='auto', source=None):
    """
    Train, and write weights, object YAML, card and report.

    Parameters
    ----------
    model : ObjectModel
        The object.
    mesh : Mesh
        Its mesh, to render.
    config : TrainConfig
        How to train.
    output : Path
        Directory.
    device : str or torch.device
        'auto': a GPU if there is one.
    source : dict
        What the object YAML beside the weights says.

    Returns
    -------
    path : Path
        Of the weights.

    """
    started = time.monotonic()
    device = training_device(device)
    on_cpu = device.type == 'cpu'
    rank, world = join_processes(on_cpu)
    output.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) // world
    workers = 0 if not on_cpu else max(1, min(cores // 2, 8))
    if on_cpu:
        keep_freed_memory()
        # Drawing crops takes a third of the time that learning from them does (measured on two
        # cores, which learn in two threads beside one process that draws).
        torch.set_num_threads(max(1, cores - workers // 2))
    say = print if rank == 0 else (lambda *_: None)
    path = output / (model.name + SUFFIX[config.network_input])
    if model.name in RESERVED:
        raise InputError(f'name: expected another one, got {model.name!r}, which is the name of '
                         'other weights')
    if config.network_input == 'rgb_mask':
        Refiner.beside(output)  # without it the training could not be measured in the end
    resume = path.with_suffix('.resume')

    recolor = config.network_input == 'rgb_mask' and not mesh.has_appearance
    if recolor:
        say(f'{model.name}: the mesh has no colours, so random materials stand in for them')
    views = render_views(model, mesh, config, TRAIN_SEED, rank == 0)
    scenery = _scenery(config, TRAIN_SEED, 256)

    torch.manual_seed(TRAIN_SEED)
    network = StackedHourglass(config.network)
    before_us, knows = _start(network, config.start, model) if config.start else (None, False)
    network = network.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    optimizers = learning.optimizers(network, config.rate, config.muon_rate)
    rates = [optimizer.defaults['lr'] for optimizer in optimizers]
    spent, samples, history = 0.0, 0, []
    state = _load_resume(resume, model, config)
    if state:
        network.load_state_dict(state['network'])
        average.load_state_dict(state['average'])
        for optimizer, saved in zip(optimizers, state['optimizers']):
            optimizer.load_state_dict(saved)
        spent, samples, history = state['spent'], state['samples'], state['history']
        say(f'{model.name}: going on after {spent / 60:.1f} min, {samples} samples')
    parallel = DistributedDataParallel(network) if world > 1 else network

    def make_sampler(seed):
        return CropSampler(views, model, config.network_input, config.crops, recolor=recolor,
                           device=device, seed=seed, **scenery)

    # Samples already seen shift the seed, so that a resumed training sees new ones.
    stream = _Crops(make_sampler, config.batch, TRAIN_SEED + 7919 * (samples + 1) + 101 * rank)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers,
                              prefetch_factor=4 if workers else None))
    bfloat = has_fast_bfloat16(device)
    if not on_cpu and world == 1:
        learning.record(network, next(batches)[0].to(device), bfloat)
    clock = time.monotonic() if state else started
    saved, before = time.monotonic(), spent
    bar = tqdm(total=config.samples or round(config.minutes * 60), disable=rank != 0,
               initial=min(samples if config.samples else round(spent), config.samples or
                           round(config.minutes * 60)),
               desc=f'{model.name} ({config.network_input})', unit='', mininterval=1.0,
               bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed} spent, {remaining} left'
                          '{postfix}')
    first, first_samples, smooth = time.monotonic(), samples, None
    try:
        while True:
            spent = before + time.monotonic() - clock
            progress = agree((samples / config.samples) if config.samples
                             else spent / (60 * config.minutes), world, device)
            if progress >= 1:
                break
            stream.severity.fill_(1.0 if knows else _severity(progress, samples))
            for optimizer, rate in zip(optimizers, rates):
                for group in optimizer.param_groups:
                    group['lr'] = rate * learning.schedule(progress)
            image, keypoints = next(batches)
            image = image.to(device).contiguous(memory_format=torch.channels_last)
            targets = encode(keypoints.to(device), config.network.heatmap_size,
                             config.network.input_size)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat, cache_enabled=on_cpu):
                heatmaps = parallel(image)
            loss = symmetric_loss([one.float() for one in heatmaps], targets, config.loss)
            network.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            for optimizer in optimizers:
                optimizer.step()
            samples += config.batch * world
            learning.follow(average, network, min(0.999, samples / config.batch / (
                10 + samples / config.batch)))
            if on_cpu or samples // (config.batch * world) % learning.LOOK_EVERY == 0:
                value = loss.item()
                if not math.isfinite(value):
                    raise InputError(f'{model.name}: the loss is {value}; lower the learning rate')
                fade = 0.98 if on_cpu else 0.8
                smooth = value if smooth is None else fade * smooth + (1 - fade) * value
                if not history or samples - history[-1][0] >= 20 * config.batch * world:
                    history.append((samples, smooth))
            now = time.monotonic()
            bar.set_postfix_str(f'loss {smooth or math.nan:.3f}, '
                                f'{(samples - first_samples) / (now - first):.0f} samples/s',
                                refresh=False)
            bar.update(min((samples if config.samples else round(spent)), bar.total) - bar.n)
            if rank == 0 and now - saved > SAVE_EVERY:
                saved = now
                _save_resume(resume, model, config, network, average, optimizers, spent,
                             samples, history)
    except KeyboardInterrupt:
        bar.close()
        if rank == 0:
            _save_resume(resume, model, config, network, average, optimizers, spent, samples,
                         history)
            say(f'\nstopped; the same command goes on from here ({resume})')
        raise
    bar.close()
    del batches
    if rank == 0:
        # What follows takes minutes, and need not go well.
        _save_resume(resume, model, config, network, average, optimizers, spent, samples, history)
        finish(model, mesh, config, average, output, path, source or {},
               {'minutes': round(spent / 60, 1), 'samples': samples, 'history': history,
                'device': _device_name(device), 'views': config.views, 'start': before_us})
        resume.unlink(missing_ok=True)
    if world > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return path


def render_views(model, mesh, config, seed, show=True):
    """Return the ViewBank that a training, or with another seed its report, cuts crops from."""
    def progress(indices):
        return tqdm(indices, desc=f'{model.name}: rendering views', unit='view', disable=not show,
                    mininterval=1.0)

    rng = np.random.default_rng(seed)
    make = silhouette_views if config.network_input == 'mask' else appearance_views
    return make(model, mesh, config.views, rng, progress)


def held_back_sampler(model, mesh, config):
    """Return the CropSampler of views and backgrounds that no training saw."""
    crops = replace(config.crops, size=int(FIELD * config.crops.size),
                    margin=FIELD * config.crops.margin)
    views = render_views(model, mesh, replace(config, views=max(64, min(384, config.views))),
                         REPORT_SEED)
    recolor = config.network_input == 'rgb_mask' and not mesh.has_appearance
    return CropSampler(views, model, config.network_input, crops, recolor=recolor,
                       seed=REPORT_SEED, **_scenery(config, REPORT_SEED, 64))


def _scenery(config, seed, count):
    """Return what a CropSampler puts behind and before objects."""
    rng = np.random.default_rng(seed)
    bodies = body_bank(rng, count, 96)
    if config.network_input == 'mask':
        return {'bodies': bodies}
    backgrounds = background_bank(rng, count, 192)
    clutter(rng, backgrounds, bodies)
    return {'bodies': bodies, 'backgrounds': backgrounds}


def finish(model, mesh, config, network, output, path, source, facts):
    """Measure on held-back virtual data and write everything that belongs to the weights."""
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()
               if not name.endswith('num_batches_tracked')}
    draft = Checkpoint(model, config.network_input, CHANNELS[config.network_input],
                       config.network, config.crops.margin, config.loss, {}, weights)
    history = facts['history'][::math.ceil(len(facts['history']) / HISTORY) or 1]
    about = {
        'command': 'python -m pose_estimator ' + shlex.join(sys.argv[1:]),
        'date': datetime.date.today().isoformat(), 'torch': torch.__version__,
        'processor': f'{facts["device"]}, {os.cpu_count()} cores, {platform.machine()}',
        **{key: facts[key] for key in ('minutes', 'samples', 'views', 'start')},
        'history': [[count, round(loss, 4)] for count, loss in history],
        'channels': list(CHANNELS[config.network_input]), 'crops': asdict(config.crops)}
    measure(replace(draft, training=about), mesh, path)
    if source:
        (output / f'{model.name}.yaml').write_text(
            '# Written by train; weights beside it. Train again with this file as OBJECT.yaml.\n'
            + yaml.safe_dump({key: value for key, value in source.items() if value is not None},
                             sort_keys=False, default_flow_style=None))


def measure(checkpoint, mesh, path):
    """Measure on held-back virtual data, fit the score, and write weights, card and report."""
    crops = CropConfig(size=checkpoint.config.input_size, margin=checkpoint.margin, **HELD_BACK)
    config = TrainConfig(checkpoint.network_input, samples=1, network=checkpoint.config,
                         crops=crops)
    sampler = held_back_sampler(checkpoint.model, mesh, config)
    refiner = None
    if checkpoint.network_input == 'rgb_mask':
        refiner = Refiner.beside(path.parent)
        landmarks = Landmarks.of_mesh(checkpoint.model, mesh, lambda views: tqdm(
            views, desc=f'{checkpoint.model.name}: landmarks', unit='view', mininterval=1.0))
        checkpoint = replace(checkpoint, surface=Surface.of_mesh(mesh), landmarks=landmarks)
    findings = evaluate_virtually(checkpoint, sampler, EASY, refiner=refiner)
    if findings.scores['by_landmarks'] < LEAST_SIGHTED:
        checkpoint = replace(checkpoint, landmarks=None)
    calibration = dict(findings.calibration)
    if checkpoint.landmarks is not None:
        calibration['sighted'] = fit_sighted(checkpoint, mesh)
    checkpoint = replace(checkpoint, calibration=calibration,
                         training={**checkpoint.training, 'virtual_scores': findings.scores})
    checkpoint.save(path)
    write_report(path, checkpoint, findings)
    scores = findings.scores
    print(f'{path}: {scores["add_0.1d"]:.1f} % of held-back virtual poses within ADD 0.1 d, '
          f'median keypoint error {scores["keypoint_error_px"]:.2f} px')


def _start(network, paths, model):
    """
    Copy what fits of other models' weights, of several their mean.

    Returns
    -------
    about : dict
        What is known of their training.
    knows : bool
        Whether they are of a network of this shape, which so needs no easy crops to begin with.

    """
    others = [Checkpoint.load(path) for path in paths]
    first = others[0]
    for path, other in zip(paths, others):
        if (replace(other.config, keypoints=1), other.network_input) != (
                replace(first.config, keypoints=1), first.network_input):
            raise InputError(f'--start: expected networks of one shape, got others in {paths[0]} '
                             f'and {path}')
    ours = network.state_dict()
    # Other keypoints need last layers of their own.
    is_same = all(_is_same_object(other.model, model) for other in others)
    taken = {name: torch.stack([other.weights[name].float() for other in others]).mean(0)
             for name, tensor in first.weights.items()
             if (is_same or not name.startswith(('heads.', 'feed_heatmaps.')))
             and name in ours and ours[name].shape == tensor.shape}
    if not taken:
        raise InputError(f'--start: expected weights of a network like this one, got none that '
                         f'fit in {paths[0]}')
    network.load_state_dict(taken, strict=False)
    about = [{'object': other.model.name, 'input': other.network_input,
              **{key: other.training.get(key) for key in ('command', 'samples', 'start')}}
             for other in others]
    knows = replace(first.config, keypoints=network.config.keypoints) == network.config
    return about[0] if len(about) == 1 else {'mean': about}, knows


def _is_same_object(one, other):
    """Return whether keypoints are the same points of the same mesh."""
    return one.keypoints.shape == other.keypoints.shape and np.allclose(
        one.keypoints, other.keypoints, atol=1e-6)


def _severity(progress, samples):
    """Return how hard the crops are: easy ones first, which teach what the object looks like."""
    steps = max((now - begin) / (end - begin)
                for now, (begin, end) in ((progress, HARDER), (samples, HARDER_CROPS)))
    return EASY + (1 - EASY) * min(max(steps, 0), 1)


def _key(model, config):
    """Return what must be the same for a training to go on."""
    described = asdict(config)
    return repr((described, model.to_dict()))


def _save_resume(path, model, config, network, average, optimizers, spent, samples, history):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    torch.save({'key': _key(model, config), 'network': network.state_dict(),
                'average': average.state_dict(),
                'optimizers': [optimizer.state_dict() for optimizer in optimizers],
                'spent': spent, 'samples': samples, 'history': history}, part)
    os.replace(part, path)


def _load_resume(path, model, config):
    """Return the state of an interrupted training of the same kind, else None."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # noqa: B902, any damage means starting anew
        print(f'{path}: not usable ({type(error).__name__}), starting anew')
        return None
    if state.get('key') != _key(model, config):
        print(f'{path}: of another configuration, starting anew')
        return None
    return state


def _device_name(device):
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    return processor_name()
