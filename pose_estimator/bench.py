"""
Timings on this machine: virtual data, pose stage, segmenter.

    python -m pose_estimator bench

"""

import multiprocessing
import os
from pathlib import Path
import time

import numpy as np

from . import assets
from .camera import PinholeCamera
from .demo.scene import DemoScene
from .instance import Instance, mask_box
from .object_model import load_object
from .pipeline import find_models, PoseEstimator
from .synthetic.backgrounds import background_bank
from .synthetic.crops import CropConfig, CropSampler
from .synthetic.views import appearance_views, silhouette_views

SECONDS = 5.0
REPEATS = 30


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='weights (default: those that the package ships)')


def run(args):
    """Run the command; return its exit code."""
    models = args.models or assets.find('models')
    cores = len(os.sched_getaffinity(0))
    print(f'{cores} cores\n\nvirtual crops of the cup, one process a core:')
    for network_input, size in (('mask', 64), ('mask', 128), ('rgb_mask', 64),
                                ('rgb_mask', 128)):
        with multiprocessing.get_context('spawn').Pool(cores) as pool:
            rates = pool.starmap(crops_per_second, [(network_input, size)] * cores)
        print(f'  {network_input:8} {size:4} px  {sum(rates):6.0f} samples/s')
    print('\npose stage (crop, network, solver), one object, 640 x 480:')
    for network_input in ('rgb_mask', 'mask'):
        if 'cup' in find_models(models, network_input):
            for count in (1, 3, 10):
                median, late = pose_milliseconds(models, network_input, count)
                print(f'  {network_input:8} {count:3} instances  median {median:6.1f} ms, '
                      f'95 % {late:6.1f} ms')
    weights = models / 'segmenter.safetensors'
    if weights.is_file():
        median, late = segmenter_milliseconds(weights)
        print(f'\nsegmenter, 640 x 480: median {median:.0f} ms, 95 % {late:.0f} ms')
    return 0


def crops_per_second(network_input, size):
    """Return how many crops one thread makes in a second."""
    import torch
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    model, mesh = load_object(assets.find('config') / 'objects/cup.yaml')
    make = silhouette_views if network_input == 'mask' else appearance_views
    sampler = CropSampler(make(model, mesh, 128, rng), model, network_input,
                          CropConfig(size=size), background_bank(rng, 32, 192))
    sampler.batch(32)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        sampler.batch(32)
        count += 32
    return count / (time.perf_counter() - started)


def pose_milliseconds(models, network_input, count):
    """Return median and 95th percentile of the time for `count` cups."""
    estimator = PoseEstimator.from_directory(models, network_input, objects=['cup'])
    rng = np.random.default_rng(0)
    camera = PinholeCamera(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), 640, 480)
    image = rng.integers(0, 255, (480, 640, 3), np.uint8)
    instances = []
    for index in range(count):
        mask = np.zeros((480, 640), bool)
        x, y = 40 + 110 * (index % 5), 60 + 150 * (index // 5)
        mask[y:y + 120, x:x + 100] = True
        instances.append(Instance('cup', 1.0, mask_box(mask), mask, index + 1))
    return _times(lambda: estimator.estimate(image, instances, camera))


def segmenter_milliseconds(weights):
    """Return median and 95th percentile of the time for an image of the demo."""
    from .segmentation.mask_rcnn import MaskRCNNSegmenter
    segmenter = MaskRCNNSegmenter.from_checkpoint(weights)
    image = DemoScene(0).frame(1.0).image
    return _times(lambda: segmenter.segment(image))


def _times(call):
    for _ in range(3):
        call()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return np.median(taken), np.quantile(taken, 0.95)
