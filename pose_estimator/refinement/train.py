"""
Train the network that mends poses, one for all objects, on virtual images alone.

    python -m pose_estimator train-refiner models/*.yaml --minutes 66

Half of what it learns from are random bodies, so that it serves objects which it has not seen:
a new object needs no training of this one. Interrupted (Ctrl-C, kill), the same command goes on
where it was. The models' scores go with the poses that it mends: fit them anew afterwards.

    python -m pose_estimator calibrate models/NAME.safetensors ...
"""

import copy
from dataclasses import asdict
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
from torch.utils.data import DataLoader, get_worker_info, IterableDataset
from tqdm import tqdm

from .flow import CHANNELS, LEAST_CELLS, loss, OUTPUTS, read, settle
from .pairs import Pairs, PairSampler, random_objects
from .refiner import FILE, Refiner, save_refiner
from .surface import Surface
from .. import learning
from ..devices import has_fast_bfloat16, keep_freed_memory, processor_name, training_device
from ..errors import InputError
from ..geometry import Pose
from ..keypoints.hourglass import HourglassConfig, StackedHourglass
from ..object_model import load_object
from ..scoring import RIGHT
from ..synthetic.backgrounds import background_bank
from ..synthetic.distractors import body_bank, clutter

DEFAULT_MINUTES = 66.0
# Random bodies, views of each, and views of each given object.
BODIES, BODY_VIEWS, OBJECT_VIEWS = 160, 32, 448
# A GPU sees enough crops to be worth more of them.
GPU_BODIES, GPU_OBJECT_VIEWS = 288, 1024
# Crops in a step on a CPU and on a GPU, drawn in parts: some faults are the same in all of a part.
BATCH, GPU_BATCH, DRAWN = 32, 512, (16, 256)
RATE, MUON_RATE = 2e-3, 0.04
# Crops have from this share of all faults to all of them.
EASY = 0.2
SAVE_EVERY = 60.0  # seconds
TRAIN_SEED, REPORT_SEED = 0, 1_000_003
CONFIG = HourglassConfig(in_channels=CHANNELS, keypoints=OUTPUTS, width=96, growth=32, modules=2,
                         stem_blocks=1)


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument('objects', nargs='+', type=Path, metavar='OBJECT.yaml',
                        help='known objects, which are learned beside random bodies')
    parser.add_argument('--minutes', type=float, default=DEFAULT_MINUTES,
                        help='time to spend on learning (default: %(default)g)')
    parser.add_argument('--start', type=Path, metavar='FILE',
                        help='weights to begin with (default: random ones)')
    parser.add_argument('--output', type=Path, default=Path('models') / FILE, metavar='FILE',
                        help='where the weights go (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='cpu, cuda, ... (default: %(default)s)')


def run(args):
    """Run the command; return its exit code."""
    if not args.minutes > 0:
        raise InputError(f'--minutes: expected more than 0, got {args.minutes}')
    start = Refiner.load(args.start) if args.start else None
    if start is not None and start.config != CONFIG:
        raise InputError(f'--start: expected a network of {CONFIG}, got {start.config}')
    train([load_object(path) for path in args.objects], args.minutes, args.output, args.device,
          start=start)
    return 0


class _Stream(IterableDataset):
    """An endless stream of batches, each worker with a seed of its own."""

    def __init__(self, sampler, seed, batch, drawn):
        self.sampler, self.seed, self.batch, self.drawn = sampler, seed, batch, drawn

    def __iter__(self):
        worker = get_worker_info()
        seed = self.seed + (worker.id if worker else 0)
        self.sampler.seed(seed)
        rng = np.random.default_rng(seed)
        while True:
            yield Pairs.cat([self.sampler.batch(self.drawn, rng.uniform(EASY, 1))
                             for _ in range(self.batch // self.drawn)])


def train(objects, minutes, path, device='auto', bodies=None, views=None, start=None):
    """
    Train, and write weights and card.

    Parameters
    ----------
    objects : list of (ObjectModel, Mesh)
        Known ones.
    minutes : float
        Time to spend on learning.
    path : Path
        Of the weights.
    device : str
        Of torch; 'auto': a GPU if there is one.
    bodies : int or None
        Random ones beside the known.
    views : int or None
        Of each known object.
    start : Refiner or None
        With whose weights to begin.

    """
    device = training_device(device)
    cores = len(os.sched_getaffinity(0))
    on_cpu = device.type == 'cpu'
    batch, drawn = (BATCH, DRAWN[0]) if on_cpu else (GPU_BATCH, DRAWN[1])
    if bodies is None:
        bodies = BODIES if on_cpu else GPU_BODIES
    if views is None:
        views = OBJECT_VIEWS if on_cpu else GPU_OBJECT_VIEWS
    workers = max(1, cores // 2) if on_cpu else 0
    if on_cpu:
        keep_freed_memory()
        torch.set_num_threads(max(1, cores - workers))
    # Other views and bodies than those that the start has seen.
    before = _samples(start.training) if start else 0
    sampler = _sampler(objects, bodies, views, TRAIN_SEED + before, device=device,
                       processes=cores)
    torch.manual_seed(TRAIN_SEED)
    network = StackedHourglass(CONFIG).to(device, memory_format=torch.channels_last)
    if start is not None:
        network.load_state_dict(start.weights)
    average = copy.deepcopy(network).eval()
    optimizers = learning.optimizers(network, RATE, MUON_RATE)
    rates = [optimizer.defaults['lr'] for optimizer in optimizers]
    resume = path.with_suffix('.resume')
    key = repr((asdict(CONFIG), [model.name for model, _ in objects], minutes, bodies, views,
                before))
    spent, samples = 0.0, 0
    state = _load_resume(resume, key)
    if state:
        network.load_state_dict(state['network'])
        average.load_state_dict(state['average'])
        for optimizer, saved in zip(optimizers, state['optimizers']):
            optimizer.load_state_dict(saved)
        spent, samples = state['spent'], state['samples']
        print(f'going on after {spent / 60:.1f} min, {samples} samples')

    def save():
        resume.parent.mkdir(parents=True, exist_ok=True)
        part = resume.with_name(resume.name + '.part')
        torch.save({'key': key, 'network': network.state_dict(), 'average': average.state_dict(),
                    'optimizers': [one.state_dict() for one in optimizers],
                    'spent': spent, 'samples': samples}, part)
        os.replace(part, resume)

    stream = _Stream(sampler, TRAIN_SEED + 7919 * (before + samples + 1), batch, drawn)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=workers,
                              prefetch_factor=4 if workers else None))
    bfloat = has_fast_bfloat16(device)
    if device.type == 'cuda':
        learning.record(network, next(batches).image, bfloat)
    bar = tqdm(total=round(minutes * 60), initial=round(spent), desc='refiner', unit='',
               mininterval=1.0, bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed} spent, '
                                           '{remaining} left{postfix}')
    sat, clock, saved, smooth, begun = spent, time.monotonic(), time.monotonic(), None, samples
    try:
        while spent < 60 * minutes:
            for optimizer, rate in zip(optimizers, rates):
                for group in optimizer.param_groups:
                    group['lr'] = rate * learning.schedule(spent / (60 * minutes))
            pairs = next(batches).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat, cache_enabled=on_cpu):
                outputs = network(pairs.image.contiguous(memory_format=torch.channels_last))
            value = loss([output.float() for output in outputs], pairs)
            network.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            for optimizer in optimizers:
                optimizer.step()
            samples += batch
            learning.follow(average, network, min(0.999, samples / batch / (10 + samples / batch)))
            if on_cpu or samples // batch % learning.LOOK_EVERY == 0:
                seen = value.item()
                if not math.isfinite(seen):
                    raise InputError(f'refiner: the loss is {seen}')
                smooth = seen if smooth is None else 0.98 * smooth + 0.02 * seen
            now = time.monotonic()
            spent = sat + now - clock
            bar.set_postfix_str(f'loss {smooth or math.nan:.3f}, '
                                f'{(samples - begun) / (now - clock):.0f} samples/s',
                                refresh=False)
            bar.update(min(round(spent), bar.total) - bar.n)
            if now - saved > SAVE_EVERY:
                saved = now
                save()
    except KeyboardInterrupt:
        bar.close()
        save()
        print(f'\nstopped; the same command goes on from here ({resume})')
        raise
    bar.close()
    del batches
    save()  # what follows takes a minute
    name = torch.cuda.get_device_name(device) if not on_cpu else processor_name()
    facts = {'command': 'python -m pose_estimator ' + shlex.join(sys.argv[1:]),
             'date': datetime.date.today().isoformat(), 'minutes': round(spent / 60, 1),
             'samples': samples, 'objects': [model.name for model, _ in objects],
             'bodies': bodies, 'start': start.training if start else None,
             'processor': f'{name}, {os.cpu_count()} cores, {platform.machine()}'}
    finish(objects, average.cpu(), path, facts)
    resume.unlink(missing_ok=True)


def _sampler(objects, bodies, views, seed, body_views=BODY_VIEWS, pictures=256, device='cpu',
             processes=1):
    """Return a PairSampler of known objects and random bodies."""
    rng = np.random.default_rng(seed)
    known = [(model, mesh, Surface.of_mesh(mesh)) for model, mesh in objects]
    several = known + random_objects(rng, bodies)
    shapes = body_bank(rng, pictures, 96)
    backgrounds = background_bank(rng, pictures, 192)
    clutter(rng, backgrounds, shapes)
    return PairSampler(several, [views] * len(known) + [body_views] * bodies,
                       {'backgrounds': backgrounds, 'bodies': shapes}, rng,
                       lambda them: tqdm(them, desc='rendering views', unit='object',
                                         total=len(several)), device, processes)


def finish(objects, network, path, facts):
    """Measure on held-back virtual data and write weights and card."""
    known = measure(network, _sampler(objects, 0, 64, REPORT_SEED, pictures=64))
    new = measure(network, _sampler([], 64, 0, REPORT_SEED, 8, pictures=64))
    training = {**facts, 'known': known, 'new': new}
    save_refiner(path, network.config, network.state_dict(), training)
    config = network.config
    hourglasses = f'{config.modules} hourglass' + ('es' if config.modules > 1 else '')
    rows = '\n'.join(
        f'| {name} | {one["before_px"]:.2f} -> {one["after_px"]:.2f} px | '
        f'{one["before_deg"]:.1f} -> {one["after_deg"]:.1f} deg | '
        f'{100 * one["before_distance"]:.1f} -> {100 * one["after_distance"]:.1f} % | '
        f'{one["before_right"]:.0f} -> {one["after_right"]:.0f} % |'
        for name, one in (('known objects', known), ('random bodies never seen', new)))
    path.with_suffix('').with_suffix('.md').write_text(f"""# refiner

Mends the pose of any object by comparing a drawing of it with the photograph, for
`pose_estimator`.

| | |
|---|---|
| Training data | virtual images of {', '.join(facts['objects'])} and {facts['bodies']} random \
bodies |
| Command | `{facts["command"]}` |
| Date, machine | {facts["date"]}; {facts["processor"]} |
| Time, samples | {facts["minutes"]} min, {facts["samples"]} crops |
| Before that | {_history(facts["start"])} |
| Network | {hourglasses}, {config.width} channels, {config.input_size} px in, \
shifts and their expected errors in {config.heatmap_size} x {config.heatmap_size} cells out |

One round on {known["samples"]} held-back virtual crops each (other views, backgrounds and seeds,
occluded and with faulty masks), medians, with the shift of visible points in pixels of
{config.input_size}, distance, and the share of poses with ADD below 0.1 of the longest side:

| | shift | rotation | distance | right |
|---|---|---|---|---|
{rows}
""")
    print(f'{path}: random bodies never seen, {new["before_right"]:.0f} -> '
          f'{new["after_right"]:.0f} % of poses right after one round; now fit the scores of the '
          'models beside it anew: python -m pose_estimator calibrate MODEL.safetensors ...')


def _samples(facts):
    """Return how many crops were learned from, those of what it began with included."""
    return facts['samples'] + (_samples(facts['start']) if facts.get('start') else 0)


def _history(start):
    """Return in words what was learned before, from a Refiner's facts."""
    if start is None:
        return 'random weights'
    return (f'{start["minutes"]} min, {start["samples"]} crops ({start["date"]}, '
            f'`{start["command"]}`), before that {_history(start.get("start"))}')


@torch.no_grad()
def measure(network, sampler, batches=20):
    """Return what one round does to faulty poses on virtual crops, a dict of medians."""
    network.eval()
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(batches):
        pairs = sampler.batch(BATCH, rng.uniform(EASY, 1))
        shift, error = read(network(pairs.image)[-1])
        left = (shift - pairs.shift).norm(dim=-1)
        for index, there in enumerate(pairs.is_seen):
            if there.sum() < LEAST_CELLS:
                continue

            def pick(one):
                return one[index][there].double().numpy()

            def pose(rotation, translation):
                return Pose(rotation[index].double().numpy(), translation[index].double().numpy())

            true = pose(pairs.R_m2c, pairs.t_m2c)
            drawn = pose(pairs.R_drawn, pairs.t_drawn)
            points = pick(pairs.points)
            try:
                mended = settle(drawn, points, pick(shift), pick(error),
                                pairs.K[index].double().numpy())[0]
            except np.linalg.LinAlgError:
                mended = drawn
            surface = sampler.points(int(pairs.which[index]))
            size = np.ptp(surface, axis=0).max()
            row = [float(pairs.shift.norm(dim=-1)[index][there].mean()),
                   float(left[index][there].mean())]
            for one in (drawn, mended):
                turn = np.clip((np.trace(one.R_m2c @ true.R_m2c.T) - 1) / 2, -1, 1)
                add = np.linalg.norm(one.transform(surface) - true.transform(surface), axis=1)
                row += [np.degrees(np.arccos(turn)),
                        abs(np.log(one.t_m2c[2] / true.t_m2c[2])), add.mean() < RIGHT * size]
            rows.append(row)
    table = np.array(rows, float)
    names = ('before_px', 'after_px', 'before_deg', 'before_distance', 'before_right',
             'after_deg', 'after_distance', 'after_right')
    found = {name: float(100 * column.mean() if name.endswith('right') else np.median(column))
             for name, column in zip(names, table.T)}
    return {'samples': len(table), **found}


def _load_resume(path, key):
    """Return the state of an interrupted training of the same kind, else None."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # noqa: B902, any damage means starting anew
        print(f'{path}: not usable ({type(error).__name__}), starting anew')
        return None
    if state.get('key') != key:
        print(f'{path}: of another configuration, starting anew')
        return None
    return state
