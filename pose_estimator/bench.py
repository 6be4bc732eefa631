"""
Timings on this machine: virtual data, pose stage, segmenter.

    python -m pose_estimator bench

"""

import multiprocessing
import os
from pathlib import Path
import resource
import time

import numpy as np

from . import assets
from .demo.scene import DemoScene, NAMES
from .devices import processor_name
from .instance import Instance, mask_box
from .object_model import load_object
from .pipeline import find_models, LOOKS, PoseEstimator
from .stability import video, video_camera
from .synthetic.backgrounds import background_bank
from .synthetic.crops import CropConfig, CropSampler
from .synthetic.render import RayCaster
from .synthetic.views import appearance_views, silhouette_views

SECONDS = 5.0
REPEATS = 30
# Seconds into the demo when its three objects stand on the table.
STANDING = 4.0
COUNTS = (1, 3, 10, 30)
# What a 2-stack hourglass is in the literature (Newell et al. 2016), in this package's blocks.
USUAL = {'input_size': 256, 'heatmap_size': 64, 'width': 256, 'growth': 0}


def add_arguments(parser):
    """Declare the command's arguments."""
    parser.add_argument('--only', choices=('segmenter',), help='leave out the rest')
    parser.add_argument('--models', type=Path, metavar='DIR',
                        help='weights (default: those that the package ships)')


def run(args):
    """Run the command; return its exit code."""
    models = args.models or assets.find('models')
    cores = len(os.sched_getaffinity(0))
    print(f'{processor_name()}, {cores} cores')
    if args.only is None:
        _crops_and_poses(models, cores)
    _segmenters(models)
    return 0


def _crops_and_poses(models, cores):
    print('\nvirtual crops of the cup, one process a core:')
    for network_input, size in (('mask', 64), ('mask', 128), ('rgb_mask', 64),
                                ('rgb_mask', 128)):
        with multiprocessing.get_context('spawn').Pool(cores) as pool:
            rates = pool.starmap(crops_per_second, [(network_input, size)] * cores)
        print(f'  {network_input:8} {size:4} px  {sum(rates):6.0f} samples/s')
    print('\npose stage (crop, network, solver, refinement), one object, 640 x 480:')
    # The book has landmarks besides.
    for name, network_input in (('cup', 'rgb_mask'), ('book', 'rgb_mask'), ('cup', 'mask')):
        if name in find_models(models, network_input):
            for threads in (1, 2):
                for count in COUNTS:
                    median, late = pose_milliseconds(models, name, network_input, count, threads)
                    print(f'  {name:4} {network_input:8} {threads} threads {count:3} instances  '
                          f'median {median:6.1f} ms, 95 % {late:6.1f} ms, each '
                          f'{median / count:5.1f} ms')
    for threads in (1, 2):
        for use_support in (False, True):
            median, late = table_milliseconds(models, threads, use_support)
            what = 'things on a table' if use_support else 'each by itself'
            print(f'  {", ".join(NAMES)}, {threads} threads, {what:17}  median {median:6.1f} ms, '
                  f'95 % {late:6.1f} ms')
    print(f'\nnetwork alone, {len(LOOKS)} looks at one crop, one thread:')
    for name, median in network_milliseconds(models).items():
        print(f'  {name:45}  median {median:6.1f} ms')
    for path in find_models(models).values():
        print(f'  {path.name:45}  median {model_milliseconds(path):6.1f} ms')


def _segmenters(models):
    for weights in sorted(models.glob('*segmenter.safetensors'))[:1]:
        for threads in (1, 2):
            print(f'\n{weights.name}, an image of 640 x 480, threads: {threads}')
            for name, (median, late) in segmenter_milliseconds(weights, threads).items():
                print(f'  {name:45}  median {median:6.0f} ms, 95 % {late:6.0f} ms')
        print(f'  peak memory of this process so far: {peak_megabytes():.0f} MB')
        median, late = stock_milliseconds()
        name = 'torchvision maskrcnn_resnet50_fpn, 1 thread'
        print(f'  {name:45}  median {median:6.0f} ms, 95 % {late:6.0f} ms')


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


def pose_milliseconds(models, name, network_input, count, threads=1):
    """Return median and 95th percentile of the time for `count` objects of a name."""
    import torch
    torch.set_num_threads(threads)
    # All are given out. A pose in doubt would be looked for twice, but this one is sure.
    estimator = PoseEstimator.from_directory(models, network_input, min_score=0.0,
                                             objects=[name])
    # The same one so many times: the solver has real work with each.
    frame = next(video(*load_object(assets.find('config') / f'objects/{name}.yaml')))
    instances = [frame.instance] * count
    return _times(lambda: estimator.estimate(frame.image, instances, video_camera()))


def table_milliseconds(models, threads, use_support):
    """Return median and 95th percentile of the time for an image of the demo's three objects."""
    import torch
    torch.set_num_threads(threads)
    estimator = PoseEstimator.from_directory(models, min_score=0.0, objects=NAMES,
                                             use_support=use_support)
    scene, instances = DemoScene(), []
    frame = scene.frame(STANDING)
    for number, name in enumerate(NAMES, 1):
        caster = RayCaster(load_object(assets.find('config') / f'objects/{name}.yaml')[1])
        mask = caster.render(frame.poses[name], scene.camera.K, scene.camera.width,
                             scene.camera.height).mask
        instances.append(Instance(name, 0.9, mask_box(mask), mask, number))
    return _times(lambda: estimator.estimate(frame.image, instances, scene.camera))


def network_milliseconds(models):
    """Return the median time of the shipped network, and of ones as others have them."""
    import torch
    from .keypoints.checkpoint import Checkpoint
    from .keypoints.hourglass import fold_batch_norms, HourglassConfig, StackedHourglass
    from .runtimes import fastest, missing_packages, RUNTIMES
    torch.set_num_threads(1)
    shipped = Checkpoint.load(find_models(models)['cup'])

    def image(config, count):
        return torch.rand(count, config.in_channels, config.input_size, config.input_size)

    looks, trained = image(shipped.config, len(LOOKS)), shipped.network().eval()
    folded = fold_batch_norms(shipped.network()).to(memory_format=torch.channels_last)
    times = {}
    with torch.inference_mode():
        times['torch, float32, as trained'] = _times(lambda: trained(looks))[0]
        for name, runtime in RUNTIMES.items():
            shown = f'{name} (default)' if name == fastest('cpu') else name
            missing = missing_packages(name)
            if missing:
                times[f'{name}: {", ".join(missing)} not installed'] = np.nan
                continue
            try:
                run = runtime(folded)
                times[shown] = _times(lambda: run(looks))[0]
            except RuntimeError as error:  # torch.compile wants a C++ compiler
                times[f'{name}: {str(error).splitlines()[0][:60]}'] = np.nan
        usual = StackedHourglass(HourglassConfig(3, 16, **USUAL)).eval()
        large = image(usual.config, 1)
        times['2 stacks, 256 channels, 256 px, one look'] = _times(lambda: usual(large))[0]
    return times


def model_milliseconds(path):
    """Return the median time of a keypoint model's network, as the pipeline runs it."""
    import torch
    from .keypoints.checkpoint import Checkpoint
    from .keypoints.predictor import KeypointPredictor
    torch.set_num_threads(1)
    predictor = KeypointPredictor(Checkpoint.load(path))
    shape = len(LOOKS), predictor.size, predictor.size
    images, masks = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    return _times(lambda: predictor.predict(images, masks))[0]


def segmenter_milliseconds(weights, threads=1):
    """
    Return median and 95th percentile of the time for an image of the demo, by runtime.

    All runtimes on one thread, the default alone on more; and that as nodes have it, confirmed.

    """
    import torch
    from .confirmed import ConfirmedSegmenter
    from .runtimes import fastest, missing_packages, RUNTIMES
    from .segmentation.mask_rcnn import load_checkpoint, MaskRCNNSegmenter
    torch.set_num_threads(threads)
    image = DemoScene(0).frame(1.0).image
    times = {}
    for runtime in ('eager, channels first', *RUNTIMES):
        name = runtime.split(',')[0]
        if threads > 1 and runtime != fastest('cpu'):
            continue
        missing = missing_packages(name)
        if missing:
            print(f'  {name}: {", ".join(missing)} not installed')
            continue
        network, config, _ = load_checkpoint(weights)
        if 'first' in runtime:
            network.backbone.memory_format = torch.contiguous_format
            network.to(memory_format=torch.contiguous_format)
        segmenter = MaskRCNNSegmenter.of(network, config, runtime=name)
        shown = f'{runtime} (default)' if runtime == fastest('cpu') else runtime
        try:
            times[shown] = _times(lambda: segmenter.segment(image), repeats=15)
        except RuntimeError as error:  # torch.compile wants a C++ compiler
            print(f'  {name}: {str(error).splitlines()[0][:60]}')
    confirmed = ConfirmedSegmenter.from_checkpoint(weights)
    times['confirmed by keypoints (default)'] = _times(lambda: confirmed.segment(image),
                                                       repeats=15)
    return times


def stock_milliseconds():
    """Return the times of torchvision's usual Mask R-CNN, random weights, for such an image."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    image = torch.from_numpy(DemoScene(0).frame(1.0).image).permute(2, 0, 1).float() / 255

    def call():
        with torch.inference_mode():
            network([image])
    return _times(call, 1, 3)


def peak_megabytes():
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _times(call, warm_ups=3, repeats=REPEATS):
    for _ in range(warm_ups):
        call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - started))
    return np.median(taken), np.quantile(taken, 0.95)
