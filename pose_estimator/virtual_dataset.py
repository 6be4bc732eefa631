"""
Make a data set in BOP's layout of virtual scenes, to measure what a new object will be like.

    python -m pose_estimator virtual-dataset cup.yaml --output out/cups
    python -m pose_estimator evaluate out/cups --models models --masks true --output out/cups.csv
    python -m pose_estimator evaluate-segmenter out/cups --weights models/segmenter.safetensors

Objects lie on tables or fly, several of a kind in a scene, lit, hidden and photographed at random,
as in the trainings, but none of these scenes is one of theirs. With --empty there are only other
things, so that whatever is found is wrong. Objects are known by name, whatever their bop_id.
"""

import json
from pathlib import Path
import re

import cv2
import numpy as np
from tqdm import tqdm

from .bop import LEAST_VISIBLE, MM, TARGETS
from .errors import InputError
from .instance import mask_box
from .object_model import load_object
from .synthetic.scene import SceneMaker

SEED = 20261130
SMALLEST = 64


def add_arguments(parser):
    """Declare the command's options."""
    parser.add_argument('objects', nargs='+', type=Path, metavar='OBJECT.yaml',
                        help='what is in the scenes')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder to write, which must not be there or be empty')
    parser.add_argument('--images', type=int, default=100, metavar='N',
                        help='(default: %(default)s)')
    parser.add_argument('--size', default='640x480', metavar='WxH',
                        help='of the images, pixels (default: %(default)s)')
    parser.add_argument('--distances', type=float, nargs=2, default=(0.4, 1.2),
                        metavar=('NEAR', 'FAR'),
                        help='of the objects from the camera, metres (default: 0.4 1.2)')
    parser.add_argument('--empty', action='store_true',
                        help='leave the objects out: only what could be taken for them')
    parser.add_argument('--seed', type=int, default=SEED, help='(default: %(default)s)')


def run(args):
    """Carry out the command; return the exit code."""
    width, height = _size(args.size)
    near, far = args.distances
    if not 0 < near < far < np.inf:
        raise InputError(f'--distances: expected 0 < NEAR < FAR, got {near:g} and {far:g}')
    if args.images < 1:
        raise InputError(f'--images: expected at least 1, got {args.images}')
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise InputError(f'{args.output}: expected no such folder or an empty one, got one with '
                         'something in it')
    objects = [load_object(path) for path in args.objects]
    names = [model.name for model, _ in objects]
    if len(set(names)) < len(names):
        raise InputError(f'objects: expected different names, got {", ".join(names)}')
    maker = SceneMaker({model.name: mesh for model, mesh in objects},
                       np.random.default_rng(args.seed), width, height, (near, far),
                       float(args.empty))
    numbers = {name: number for number, name in enumerate(names, 1)}
    _write_models(args.output, objects, numbers)
    count = _write_scenes(args.output, maker, numbers, args.images)
    print(f'{args.images} images with {count} instances of {", ".join(names)} written to '
          f'{args.output}')
    return 0


def _size(text):
    """Return width and height, read from 640x480."""
    match = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if not match or min(map(int, match.groups())) < SMALLEST:
        raise InputError(f'--size: expected 640x480 or the like, {SMALLEST} or more each, got '
                         f'{text!r}')
    return int(match[1]), int(match[2])


def _write_models(path, objects, numbers):
    """Write models_eval/ with models_info.json, in millimetres: bodies without their looks."""
    import trimesh
    folder, info = path / 'models_eval', {}
    folder.mkdir(parents=True)
    for model, mesh in objects:
        number = numbers[model.name]
        low, high = model.bounds / MM
        entry = {'name': model.name, 'diameter': model.diameter / MM,
                 **dict(zip(('min_x', 'min_y', 'min_z'), low.tolist())),
                 **dict(zip(('size_x', 'size_y', 'size_z'), (high - low).tolist()))}
        discrete = []
        for turn in model.symmetries.discrete:
            matrix = turn.matrix.copy()
            matrix[:3, 3] /= MM
            discrete.append(matrix.ravel().tolist())
        continuous = [{'axis': list(axis), 'offset': (np.array(offset) / MM).tolist()}
                      for axis, offset in model.symmetries.continuous]
        entry.update({key: value for key, value in (('symmetries_discrete', discrete),
                                                    ('symmetries_continuous', continuous))
                      if value})
        info[str(number)] = entry
        body = trimesh.Trimesh(mesh.vertices / MM, mesh.faces, process=False)
        body.export(folder / f'obj_{number:06d}.ply')
    (folder / 'models_info.json').write_text(json.dumps(info, indent=1) + '\n')


def _write_scenes(path, maker, numbers, count):
    """Write test/000001 and the list of targets; return how many instances are asked for."""
    folder = path / 'test' / '000001'
    for kind in ('rgb', 'mask_visib'):
        (folder / kind).mkdir(parents=True)
    cameras, truths, infos, targets = {}, {}, {}, []
    for image in tqdm(range(count), unit='image', disable=None):
        scene, names = maker.scene()
        cv2.imwrite(str(folder / 'rgb' / f'{image:06d}.png'), scene.image[..., ::-1])
        own, about, asked = [], [], dict.fromkeys(sorted(numbers.values()), 0)
        for index, (name, pose) in enumerate(zip(names, scene.poses)):
            mask = scene.ids == index + 1
            if not mask.any():
                continue
            cv2.imwrite(str(folder / 'mask_visib' / f'{image:06d}_{len(own):06d}.png'),
                        mask.view(np.uint8) * np.uint8(255))
            own.append({'obj_id': numbers[name], 'cam_R_m2c': pose.R_m2c.ravel().tolist(),
                        'cam_t_m2c': (pose.t_m2c / MM).tolist()})
            x0, y0, x1, y1 = (mask_box(mask) + 0.5).astype(int).tolist()
            about.append({'bbox_visib': [x0, y0, x1 - x0, y1 - y0],
                          'px_count_visib': int(mask.sum()),
                          'visib_fract': float(scene.visible[index])})
            asked[numbers[name]] += bool(scene.visible[index] >= LEAST_VISIBLE)
        cameras[image] = {'cam_K': scene.camera.K.ravel().tolist(), 'depth_scale': 1.0}
        truths[image], infos[image] = own, about
        targets += [{'scene_id': 1, 'im_id': image, 'obj_id': number, 'inst_count': many}
                    for number, many in asked.items() if many]
    for name, values in (('camera', cameras), ('gt', truths), ('gt_info', infos)):
        (folder / f'scene_{name}.json').write_text(json.dumps(values))
    (path / TARGETS).write_text(json.dumps(targets))
    return sum(one['inst_count'] for one in targets)
