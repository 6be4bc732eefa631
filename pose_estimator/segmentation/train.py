"""
Trains one Mask R-CNN for several objects on virtual scenes made on the fly.

    python -m pose_estimator train-segmenter config/objects/*.yaml
    python -m pose_estimator train-segmenter cup.yaml --minutes 60 --output models/cups.safetensors
    torchrun --nproc-per-node 4 -m pose_estimator train-segmenter cup.yaml --device cuda

It begins with what a shipped segmenter has learned, other objects though they were. Ctrl-C or a
kill loses at most a minute: the same command goes on from OUTPUT.resume, which stays, so that more
--minutes train further.

"""

from collections import Counter, deque
from datetime import date
import multiprocessing
import os
from pathlib import Path
import time

import cv2
import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, get_worker_info, IterableDataset

from .mask_rcnn import (
    build_network, copy_fitting, early_layers, LITE, load_checkpoint, load_pretrained,
    MaskRCNNConfig, MaskRCNNSegmenter, save_checkpoint, SCALES, VARIANTS)
from ..devices import agree, join_processes, machine_name, torch_device
from ..errors import InputError
from ..object_model import load_object
from ..synthetic.scene import color_matrix, SceneMaker

# Images in a step, on a CPU and on a GPU; beside a GPU each core but one draws scenes.
BATCH, GPU_BATCH = 4, 16
# Sides of scenes, and of the cuts of them that are shown, on a CPU and on a GPU, over those of the
# images at work: far things are found better in larger images (docs/segmentation.md), and small
# cuts cost less.
SCENE, CUT, GPU_CUT = 3 / 4, 1 / 2, 5 / 8
# Rendering a scene costs as much as learning from several: so often is each shown, on a CPU and
# on a GPU, each time cut, turned, zoomed and coloured otherwise, in between others out of a pool.
SHOWN, GPU_SHOWN = 8, 10
POOL = 1200
SMALLEST_POOL = 24
# Standard deviation of the turn of a cut's hues, radians, and the share of cuts without colour.
HUE, GREY = 0.45, 0.15
# Share of cuts whose sharpness, contrast and brightness, each for itself, is overdone.
OVERDONE = 0.2
# Instances of which less is seen, in pixels and as a share, are background.
LEAST_PIXELS, LEAST_VISIBLE = 40, 0.08
# Of an instance at the border of a cut, this part of its pixels has to be there.
LEAST_KEPT = 0.2
HEAD_RATE, BODY_RATE = 1e-3, 2e-4
WARM_UP = 100
EMA_DECAY = 0.997
SAVE_EVERY = 60.0
# What the light variants start from unless told otherwise; another backbone than its own keeps
# ImageNet's weights.
SHIPPED = Path(__file__).parents[2] / 'models' / 'segmenter.safetensors'
EVALUATED_SCENES, EMPTY_SCENES = 150, 100
EVALUATION_SEED = 987654321


def add_arguments(parser):
    """Declare the options of `train-segmenter`."""
    parser.add_argument('objects', nargs='+', metavar='OBJECT.yaml',
                        help='the objects to tell apart')
    parser.add_argument('--minutes', type=float, default=30,
                        help='how long to train, all runs together (default: %(default)s)')
    parser.add_argument('--output', type=Path, default=Path('models/segmenter.safetensors'),
                        help='weights to write (default: %(default)s)')
    parser.add_argument('--backgrounds', type=Path, metavar='DIR',
                        help='photographs (.jpg, .png) without the objects, to stand behind them '
                        'in half of the scenes (default: none, procedural pictures alone)')
    parser.add_argument('--variant', choices=tuple(VARIANTS), default='fast',
                        help='fast: EfficientNet-Lite0, for CPUs; medium: EfficientNet-Lite2; '
                        'accurate: ResNet-50 FPN v2, for GPUs (default: %(default)s)')
    parser.add_argument('--start', metavar='FILE', default='auto',
                        help='weights of another segmenter to begin with, or none: ImageNet alone '
                        '(default: the shipped segmenter, where it is)')
    parser.add_argument('--frozen', action='store_true',
                        help="keep the whole backbone at ImageNet's weights: worse by itself, "
                        'but good in a mean with others (average-segmenters)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0)


def run(args):
    """Train, evaluate on held-back scenes, write weights and card; return the exit code."""
    if not args.minutes > 0:
        raise InputError(f'--minutes: expected more than 0, got {args.minutes}')
    # Adam's averages of small gradients are denormal numbers, which a CPU handles ten times
    # slower than zeros.
    torch.set_flush_denormal(True)
    meshes = {}
    for path in args.objects:
        model, mesh = load_object(path)
        if model.name in meshes:
            raise InputError(f'{path}: expected different names, got {model.name!r} twice')
        meshes[model.name] = mesh
    args.output.parent.mkdir(parents=True, exist_ok=True)
    device = args.device
    if device == 'cuda':
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    rank, world = join_processes(torch_device(device).type == 'cpu')
    shipped = SHIPPED if args.variant in LITE and SHIPPED.is_file() else None
    start = {'none': None, 'auto': shipped}.get(args.start, args.start)
    trainer = Trainer(meshes, args.output, device, args.seed, start, args.variant,
                      photographs(args.backgrounds), rank, world, args.frozen)
    try:
        trainer.train(60 * args.minutes)
    except KeyboardInterrupt:
        trainer.save_state()
        print(f'\nstopped after {trainer.seconds / 60:.1f} min; the same command goes on')
        return 130
    if world > 1:
        distributed.destroy_process_group()
        if rank:
            return 0
    command = ('python -m pose_estimator train-segmenter ' + ' '.join(args.objects)
               + f' --minutes {args.minutes:g} --output {args.output}'
               + (f' --backgrounds {args.backgrounds}' if args.backgrounds else '')
               + (f' --variant {args.variant}' if args.variant != 'fast' else '')
               + (f' --start {args.start}' if args.start != 'auto' else '')
               + (' --frozen' if args.frozen else '')
               + (f' --seed {args.seed}' if args.seed else ''))
    facts = {'date': date.today().isoformat(), 'command': command,
             'minutes': round(trainer.seconds / 60, 1), 'steps': trainer.step,
             'machine': ' and '.join(trainer.machines),
             'batch': trainer.batch * world, 'scenes': round(trainer.fresh),
             'start': trainer.before,
             'threads': torch.get_num_threads()}
    # What has been learned is kept whatever becomes of the evaluation, which takes minutes.
    save_checkpoint(args.output, trainer.average, trainer.config, **facts)
    facts['scores'] = evaluate(trainer.average, trainer.config, meshes, EVALUATED_SCENES, device)
    save_checkpoint(args.output, trainer.average, trainer.config, **facts)
    card = args.output.with_suffix('.md')
    card.write_text(model_card(trainer.config, facts))
    print(f'{args.output} and {card} written')
    return 0


def photographs(folder):
    """Return the paths of the pictures in a folder, () for None."""
    if folder is None:
        return ()
    found = tuple(str(path) for path in sorted(folder.rglob('*'))
                  if path.suffix.lower() in ('.jpg', '.jpeg', '.png'))
    if not found:
        raise InputError(f'--backgrounds: expected a folder with .jpg or .png, got {folder}')
    return found


class SceneStream(IterableDataset):
    """Endless cuts of virtual scenes, drawn in processes that each have a seed of their own."""

    def __init__(self, meshes, seed, size, cut, shown, backgrounds=()):
        self.meshes = meshes
        self.backgrounds = backgrounds
        self.seed = seed
        self.size, self.cut, self.shown = size, cut, shown

    def __iter__(self):
        cv2.setNumThreads(1)
        worker = get_worker_info()
        seed = [*np.atleast_1d(self.seed), 0 if worker is None else worker.id]
        workers = 1 if worker is None else worker.num_workers
        rng = np.random.default_rng([*seed, 1])
        width, height = self.size
        maker = SceneMaker(self.meshes, np.random.default_rng(seed), width, height,
                           backgrounds=self.backgrounds)
        pool = deque(maxlen=max(POOL // workers, 1))
        while True:
            scene, names = maker.scene()
            pool.append(example(scene, names, maker.names))
            if len(pool) < SMALLEST_POOL / workers:
                continue
            for chosen in (len(pool) - 1, *rng.integers(0, len(pool), self.shown - 1)):
                image, ids, classes = pool[chosen]
                yield (*vary(image, ids, rng, self.cut), classes)


def example(scene, names, order):
    """
    Return what a Mask R-CNN learns from.

    Parameters
    ----------
    scene : synthetic.scene.Scene
        What SceneMaker.scene gives.
    names : list of str
        Of the scene's objects.
    order : tuple of str
        All names; class i + 1 is order[i].

    Returns
    -------
    image : array of uint8, shape (H, W, 3)
    ids : array of uint8, shape (H, W)
        i + 1 where instance i is seen.
    classes : array of int64, shape (n,)

    """
    ids = np.zeros(scene.ids.shape, np.uint8)
    classes = []
    for index, name in enumerate(names):
        mask = scene.ids == index + 1
        if mask.sum() >= LEAST_PIXELS and scene.visible[index] >= LEAST_VISIBLE:
            classes.append(order.index(name) + 1)
            ids[mask] = len(classes)
    return scene.image, ids, np.array(classes, np.int64)


def vary(image, ids, rng, size):
    """
    Return a cut of an example, turned, zoomed and coloured a little, mostly around an instance.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        See example.
    ids : array of uint8, shape (H, W)
        See example.
    rng : numpy.random.Generator
        Source of chance.
    size : (int, int)
        Width w and height h of the cut.

    Returns
    -------
    image : array of uint8, shape (h, w, 3)
    ids : array of uint8, shape (h, w)
        Instances of which too little is left are 0.

    """
    height, width = ids.shape
    pixels = np.bincount(ids.ravel())
    present = np.flatnonzero(pixels[1:]) + 1
    zoom = np.exp(rng.normal(0, 0.18))
    middle = np.array([width, height]) * rng.uniform(0.2, 0.8, 2)
    if len(present) and rng.random() < 0.9:
        y, x = np.nonzero(ids == rng.choice(present))
        middle = np.array([x.mean(), y.mean()]) + rng.uniform(-0.4, 0.4, 2) * size / zoom
    # Little of the cut lies beyond the scene's border.
    reach = 0.45 * np.array(size) / zoom
    middle = np.clip(middle, np.minimum(reach, (width / 2, height / 2)),
                     np.maximum((width, height) - reach, (width / 2, height / 2)))
    turn = cv2.getRotationMatrix2D(middle.tolist(), rng.normal(0, 5), zoom)
    turn[:, 2] += np.array(size) / 2 - middle
    image = cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_REPLICATE)
    ids = cv2.warpAffine(ids, turn, size, flags=cv2.INTER_NEAREST)
    left = np.bincount(ids.ravel(), minlength=len(pixels))
    ids[(left < LEAST_KEPT * zoom ** 2 * pixels)[ids]] = 0
    gains = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))
    table = np.clip(np.arange(256)[:, None] * gains + rng.normal(0, 8), 0, 255)
    image = recoloured(table.astype(np.uint8)[image, np.arange(3)], rng)
    return overdone(image, rng), ids


def recoloured(image, rng):
    """
    Return a picture with all hues turned by the same angle and another saturation, often none.

    A mesh's colours are not those that a camera sees; what learns from this leans on them less.

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
    angle = rng.normal(0, HUE)
    saturation = 0.0 if rng.random() < GREY else np.exp(rng.normal(0, 0.4))
    return cv2.transform(image, color_matrix(angle, saturation))


def overdone(image, rng):
    """
    Return a picture now and then far too dark, bright, flat, harsh or sharp.

    Beyond what cameras do, as the training of CosyPose has it (Labbe et al. 2020).

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
    if rng.random() < OVERDONE:
        amount = 6 * rng.random() ** 2
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 1.5))
        image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    values = np.arange(256.0)
    if rng.random() < OVERDONE:
        middle = image.mean()
        values = middle + (values - middle) * np.exp(rng.normal(0, 0.6))
    if rng.random() < OVERDONE:
        values = values * np.exp(rng.normal(0, 0.5))
    return np.clip(values, 0, 255).astype(np.uint8)[image]


def targets(image, ids, classes, device):
    """Return an image tensor (3, H, W) in 0..1 and torchvision's dict of its instances."""
    masks, boxes, labels = [], [], []
    for index, kind in enumerate(classes):
        mask = ids == index + 1
        if mask.sum() < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        masks.append(mask)
        labels.append(kind)
    picture = torch.from_numpy(image).permute(2, 0, 1).float().div(255)
    stacked = np.array(masks, np.uint8).reshape(-1, *ids.shape)
    return picture.to(device), {
        'boxes': torch.tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4),
        'labels': torch.tensor(labels, dtype=torch.int64, device=device),
        'masks': torch.from_numpy(stacked).to(device)}


def scene_size(config):
    """Return width and height of the scenes for a MaskRCNNConfig."""
    return round(SCENE * config.long_side), round(SCENE * config.short_side)


class Trainer:
    """
    One training, resumable.

    Attributes
    ----------
    network, average : MaskRCNN
        What is trained, and the moving average of its weights, which is kept.
    seconds : float
        Trained so far.
    step : int
        Batches.
    fresh : float
        Scenes drawn for them.
    batch : int
        Images in a step of each process.
    cut : (int, int)
        Width and height of what is shown.
    before : dict or None
        What the training started from: 'labels', 'minutes' and 'threads' of that training.
    rank, world : int
        Which process this is, and of how many. All draw scenes of their own and learn from the
        mean of their gradients; the first one keeps the books.
    frozen : bool
        Whether the whole backbone has and keeps the weights that its variant starts from.

    """

    def __init__(self, meshes, output, device, seed, start=None, variant='fast',
                 backgrounds=(), rank=0, world=1, frozen=False):
        self.frozen = frozen
        self.rank, self.world = rank, world
        self.meshes = meshes
        self.backgrounds = backgrounds
        self.device = device
        self.is_on_cpu = torch.device(device).type == 'cpu'
        self.batch = BATCH if self.is_on_cpu else GPU_BATCH
        self.seed = seed
        self.config = MaskRCNNConfig(tuple(meshes), variant)
        self.state_path = output.with_name(output.name + '.resume')
        torch.manual_seed(seed)
        self.network = build_network(self.config)
        self.average = build_network(self.config).requires_grad_(False)
        part = CUT if self.is_on_cpu else GPU_CUT
        self.cut = round(part * self.config.long_side), round(part * self.config.short_side)
        # A cut is shown as it is.
        self.network.transform.min_size = (self.cut[1],)
        self.network.transform.max_size = self.cut[0]
        self.seconds, self.step, self.fresh = 0.0, 0, 0.0
        self.machines = [machine_name(device)]
        state = self._load_state()
        self.before = None
        if state is None and start is not None:
            # Its early layers are those of the pretrained weights that it once began with.
            self.before, pretrained = self._start_from(start)
        elif state is None:
            pretrained = load_pretrained(self.network, self.config)
        else:
            self.before, pretrained = state['before'], state.get('pretrained', True)
            self.network.load_state_dict(state['network'])
        self.pretrained = pretrained
        if frozen and not pretrained:
            raise InputError('--frozen: expected pretrained weights for the backbone, got none')
        self.network.to(device)
        self.average.to(device)
        self.average.load_state_dict(self.network.state_dict() if state is None
                                     else state['average'])
        body = self.network.backbone.body
        if pretrained:
            for layer in [body] if frozen else early_layers(self.network, self.config):
                layer.requires_grad_(False)
        tuned = [p for p in body.parameters() if p.requires_grad]
        known = {id(p) for p in body.parameters()}
        heads = [p for p in self.network.parameters() if id(p) not in known]
        self.rates = (BODY_RATE, HEAD_RATE)
        self.optimizer = torch.optim.AdamW([{'params': tuned}, {'params': heads}],
                                           lr=HEAD_RATE, weight_decay=1e-4, fused=True)
        if state is not None:
            self.optimizer.load_state_dict(state['optimizer'])
            self.seconds, self.step = state['seconds'], state['step']
            self.fresh = state['fresh']
            self.machines = list(dict.fromkeys(state.get('machines', []) + self.machines))
            if not rank:
                print(f'going on from {self.state_path}: {self.seconds / 60:.1f} min done')

    def _start_from(self, path):
        """
        Take another segmenter's weights, all but those of its classes.

        Returns
        -------
        facts : dict
            Of the other one.
        pretrained : bool
            Whether the early layers are pretrained ones.

        """
        other, config, facts = load_checkpoint(path)
        state, pretrained = other.state_dict(), True
        if config.variant != self.config.variant:
            # The heads of another backbone are worth having, its layers are not.
            state = {name: value for name, value in state.items()
                     if not name.startswith('backbone.body')}
            pretrained = load_pretrained(self.network, self.config)
        count = copy_fitting(self.network, state, config.labels == self.config.labels)
        if not count:
            raise InputError(f'--start: expected weights of a network like this one, got none '
                             f'that fit from {path}')
        if self.frozen:
            fresh = build_network(self.config)
            load_pretrained(fresh, self.config)
            self.network.backbone.body.load_state_dict(fresh.backbone.body.state_dict())
        if not self.rank:
            print(f'starting from {path}: {count} arrays')
        return {'labels': list(config.labels),
                **{key: facts.get(key) for key in ('minutes', 'threads')}}, pretrained

    def _load_state(self):
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, map_location='cpu', weights_only=True)
            labels = state['labels']
        except Exception as error:  # noqa: B902, torch's unpickler raises whatever it meets
            raise InputError(f'{self.state_path}: expected the state of a training, got '
                             f'{type(error).__name__}; delete it to start anew') from error
        if state.get('variant', 'fast') != self.config.variant:
            raise InputError(f'{self.state_path}: expected a training of '
                             f'{self.config.variant!r}, got one of another variant; delete it to '
                             'start anew')
        if state.get('frozen', False) != self.frozen:
            raise InputError(f'{self.state_path}: expected a training with --frozen as this one, '
                             'got one that differs in that; delete it to start anew')
        if labels != list(self.config.labels):
            raise InputError(f'{self.state_path}: expected a training of '
                             f'{", ".join(self.config.labels)}, got one of '
                             f'{", ".join(labels)}; delete it to start anew')
        return state

    def save_state(self):
        """Write what is needed to go on; the file is replaced in one stroke."""
        if self.rank:
            return
        partial = self.state_path.with_name(self.state_path.name + '.part')
        torch.save({'labels': list(self.config.labels), 'variant': self.config.variant,
                    'frozen': self.frozen, 'pretrained': self.pretrained,
                    'network': self.network.state_dict(),
                    'average': self.average.state_dict(),
                    'optimizer': self.optimizer.state_dict(), 'seconds': self.seconds,
                    'step': self.step, 'fresh': self.fresh, 'before': self.before,
                    'machines': self.machines}, partial)
        partial.replace(self.state_path)

    def train(self, seconds):
        """Train until so many seconds are spent, those of earlier runs included."""
        from tqdm import tqdm
        # Going on with the seed of the start would show the same scenes again.
        shown = SHOWN if self.is_on_cpu else GPU_SHOWN
        stream = SceneStream(self.meshes, [self.seed, self.step, self.rank],
                             scene_size(self.config), self.cut, shown, self.backgrounds)
        cores = len(os.sched_getaffinity(0)) // self.world
        workers = 1 if self.is_on_cpu else max(cores - 1, 1)
        # Spawned one by one, each would be waited for until it had imported torch; forked from
        # one that has, fifteen start in the time of one.
        multiprocessing.set_forkserver_preload([__name__])
        source = iter(DataLoader(stream, batch_size=None, num_workers=workers,
                                 prefetch_factor=8, multiprocessing_context='forkserver'))
        self.network.train()
        losses = deque(maxlen=50)
        total = round(seconds)
        with tqdm(total=total, initial=min(int(self.seconds), total), unit='s',
                  disable=self.rank != 0,
                  bar_format='{l_bar}{bar}| {n:.0f}/{total} s{postfix}') as bar:
            saved = last = time.monotonic()
            while self.seconds < seconds:
                cuts = [next(source) for _ in range(self.batch)]
                losses.append(self._step(cuts, min(self.seconds / seconds, 1)))
                self.fresh += self.batch / shown
                now = time.monotonic()
                self.seconds = agree(self.seconds + now - last, self.world, self.device)
                bar.update(min(self.seconds, total) - bar.n)
                per_step = now - last
                last = now
                left = max(seconds - self.seconds, 0)
                mean = np.mean(losses, 0)
                bar.set_postfix_str(
                    f'step {self.step} loss {mean.sum():.3f} (class {mean[0]:.3f} box '
                    f'{mean[1]:.3f} mask {mean[2]:.3f} rpn {mean[3]:.3f}) '
                    f'{self.world * self.batch / per_step:.1f} img/s, {left / 60:.1f} min left',
                    refresh=False)
                if now - saved > SAVE_EVERY:
                    self.save_state()
                    saved = now
        self.save_state()

    def _step(self, cuts, progress):
        """Learn from a batch; return the losses of class, box, mask and proposals."""
        warm = min((self.step + 1) / WARM_UP, 1)
        fall = 0.5 + 0.5 * np.cos(np.pi * progress)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group['lr'] = float(rate * warm * max(fall, 0.01))
        pairs = [targets(np.asarray(image), np.asarray(ids), np.asarray(classes), self.device)
                 for image, ids, classes in cuts]
        losses = self.network(*map(list, zip(*pairs)))
        total = sum(losses.values())
        self.optimizer.zero_grad()
        total.backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - decay)
            for mean, value in zip(self.average.buffers(), self.network.buffers()):
                mean.copy_(value)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        return [values['loss_classifier'], values['loss_box_reg'], values['loss_mask'],
                values['loss_objectness'] + values['loss_rpn_box_reg']]

    def _share_gradients(self):
        """
        Give all processes the mean of their gradients.

        By hand, since DistributedDataParallel wants each weight used in each step, and masks
        have no gradient where a process was shown no object.

        """
        if self.world == 1:
            return
        learned = [weight for weight in self.network.parameters() if weight.requires_grad]
        for weight in learned:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        flat = torch.cat([weight.grad.flatten() for weight in learned])
        distributed.all_reduce(flat)
        flat /= self.world
        for weight, mean in zip(learned, flat.split([weight.numel() for weight in learned])):
            weight.grad.copy_(mean.view_as(weight))


def evaluate(network, config, meshes, count, device='cpu', min_score=0.5):
    """
    Score a network on virtual scenes that training never showed.

    Returns
    -------
    scores : dict
        Per object 'recall' (mask IoU of 0.5, instances seen to 40 % or more), 'iou' (mean of
        those found); 'false' (detections an image that match no instance at IoU 0.5);
        'false_empty' (the same on EMPTY_SCENES scenes without any known object).

    """
    from tqdm import tqdm
    segmenter = MaskRCNNSegmenter.of(network, config, device, min_score)
    width, height = scene_size(config)
    maker = SceneMaker(meshes, np.random.default_rng(EVALUATION_SEED), width, height)
    wanted, found, overlaps = Counter(), Counter(), dict.fromkeys(config.labels, 0.0)
    wrong = 0
    for _ in tqdm(range(count), desc='held-back scenes', leave=False):
        scene, names = maker.scene()
        instances = segmenter.segment(scene.image)
        truth = {index: scene.ids == index + 1 for index in range(len(names))}
        matched = set()
        for instance in instances:
            best, match = 0.0, None
            for index, mask in truth.items():
                if names[index] != instance.label or index in matched:
                    continue
                both = np.count_nonzero(mask & instance.mask)
                iou = both / max(int(np.count_nonzero(mask | instance.mask)), 1)
                if iou > best:
                    best, match = iou, index
            if best >= 0.5:
                matched.add(match)
                if scene.visible[match] >= 0.4:
                    found[instance.label] += 1
                    overlaps[instance.label] += best
            else:
                wrong += 1
        for index, name in enumerate(names):
            wanted[name] += bool(scene.visible[index] >= 0.4
                                 and truth[index].sum() >= LEAST_PIXELS)
    maker = SceneMaker(meshes, np.random.default_rng(EVALUATION_SEED), width, height, empty=1.0)
    wrong_empty = sum(len(segmenter.segment(maker.scene()[0].image))
                      for _ in range(EMPTY_SCENES))
    return {'objects': {name: {'instances': wanted[name],
                               'recall': round(found[name] / max(wanted[name], 1), 3),
                               'iou': round(overlaps[name] / max(found[name], 1), 3)}
                        for name in config.labels},
            'scenes': count, 'date': date.today().isoformat(), 'min_score': min_score,
            'false': round(wrong / count, 3),
            'empty_scenes': EMPTY_SCENES, 'false_empty': round(wrong_empty / EMPTY_SCENES, 3)}


def model_card(config, facts):
    """Return the card (Markdown) of a trained segmenter."""
    scores = facts['scores']
    rows = '\n'.join(f'| {name} | {one["instances"]} | {one["recall"]:.3f} | {one["iou"]:.3f} |'
                     for name, one in scores['objects'].items())
    mean_of = facts.get('mean_of')
    before = facts.get('start')
    start = '' if before is None else (
        f"\n- Started from: the segmenter of {', '.join(before['labels'])} ({before['minutes']} "
        f"minutes,\n  {before['threads']} CPU threads)")
    network, sizes = "torchvision's maskrcnn_resnet50_fpn_v2", ''
    if config.variant in LITE:
        network = (f'Mask R-CNN with EfficientNet-Lite{LITE[config.variant]} (ImageNet weights) '
                   f'and a feature pyramid of\n{config.channels} channels')
        sizes = ', then seen at\n{:.0%} and {:.0%} of that'.format(*SCALES)
    time_and_data = f"""- Time: {facts['minutes']} minutes, {facts['threads']} CPU threads, \
{facts.get('steps')} steps of
  {facts.get('batch', BATCH)} images{start}
- Data: {facts.get('scenes')} virtual scenes made on the fly from the objects' meshes, procedural
  backgrounds and distractors; no photographs"""
    if mean_of:
        time_and_data = '- Mean of the weights of:\n' + '\n'.join(
            f'  - `{one["command"]}` ({one["date"]}, {one["minutes"]} minutes, '
            # Parts on a GPU say which; how many threads a CPU's had tells more than its name.
            + (one['machine'] if ', ' in (one.get('machine') or '') else
               f'{one["threads"]} CPU threads')
            # A mean itself takes none.
            + (f', {one["steps"]} steps)' if one['steps'] else ')') for one in mean_of) + (
            "\n- Data: virtual scenes made on the fly from the objects' meshes, procedural "
            'backgrounds and\n  distractors; no photographs')
    return f"""# Segmenter of {', '.join(config.labels)}

{network}; images are resized to {config.long_side} x {config.short_side}{sizes}.

- Command: `{facts['command']}`
- Date, machine: {facts['date']}; {facts.get('machine', 'unknown')}
{time_and_data}

On {scores['scenes']} held-back virtual scenes ({scores['date']}), at a score of \
{scores['min_score']} or more:

| object | instances seen to 40 % or more | recall at mask IoU 0.5 | mean mask IoU of those |
|---|---|---|---|
{rows}

False detections an image: {scores['false']:.3f}; on {scores['empty_scenes']} scenes without any
known object: {scores['false_empty']:.3f}.

These scenes come from the generator that made the training's: they tell nothing about
photographs; docs/segmentation.md does.
"""
