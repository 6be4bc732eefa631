"""A small data set in BOP's layout, rendered: two scenes, three images, two objects."""

import json

import cv2
import numpy as np
from pose_estimator.geometry import Pose
from pose_estimator.mesh import load_mesh
from pose_estimator.synthetic.render import RayCaster
import trimesh

WIDTH, HEIGHT = 160, 120
# The second object looks the same after half a turn about its z axis.
SIZES_MM = {1: (60, 40, 30), 2: (70, 40, 30)}
HALF_TURN = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
# (scene, image) -> folder, suffix, focal length, {object: (rotation vector, t in m)}
IMAGES = {
    (1, 3): ('rgb', '.png', 200.0, {1: ((0.4, 0.5, 0.2), (-0.04, 0.01, 0.4)),
                                    2: ((0.1, 0.2, 1.2), (0.05, -0.01, 0.45))}),
    (1, 7): ('rgb', '.jpg', 240.0, {1: ((-0.7, 0.5, 2.0), (0.0, 0.0, 0.35)),
                                    2: ((0.1, 2.0, 0.3), (0.01, 0.02, 0.5))}),
    (2, 0): ('gray', '.png', 180.0, {2: ((1.0, 0.2, 0.3), (0.02, 0.0, 0.3))}),
}


def true_pose(scene_id, image_id, object_id):
    """Return the true Pose."""
    return Pose.from_rotvec(*IMAGES[scene_id, image_id][3][object_id])


def intrinsics(focal):
    """Return K of an image."""
    return np.array([[focal, 0, 81.0], [0, focal + 2, 58.5], [0, 0, 1]])


def write_dataset(path):
    """Write the data set with detections.json, its detections the true visible masks."""
    casters = _write_models(path)
    scenes, detections, targets = {}, [], []
    for (scene, image), (kind, suffix, focal, objects) in IMAGES.items():
        matrix = intrinsics(focal)
        seen = {number: casters[number].render(true_pose(scene, image, number), matrix, WIDTH,
                                               HEIGHT) for number in objects}
        depth = np.array([np.where(one.mask, one.depth, np.inf) for one in seen.values()])
        nearest = np.where(np.isfinite(depth.min(0)), depth.argmin(0), -1)
        picture = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
        truths, infos = [], []
        for index, (number, view) in enumerate(seen.items()):
            visible = nearest == index
            picture[visible] = view.albedo[visible]
            pose = true_pose(scene, image, number)
            truths.append({'obj_id': number, 'cam_R_m2c': pose.R_m2c.ravel().tolist(),
                           'cam_t_m2c': (1000 * pose.t_m2c).tolist()})
            rows, columns = np.nonzero(visible)
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1,
                   int(np.ptp(rows)) + 1]
            infos.append({'bbox_visib': box, 'px_count_visib': int(visible.sum()),
                          'visib_fract': float(visible.sum() / view.mask.sum())})
            detections.append({'scene_id': scene, 'image_id': image, 'category_id': number,
                               'score': 0.9, 'bbox': box, 'time': 0.1,
                               'segmentation': run_lengths(visible)})
            targets.append({'scene_id': scene, 'im_id': image, 'obj_id': number,
                            'inst_count': 1})
        folder = path / 'test' / f'{scene:06d}'
        (folder / kind).mkdir(parents=True, exist_ok=True)
        if kind == 'gray':
            picture = picture.mean(-1).astype(np.uint8)
        else:
            picture = picture[..., ::-1]
        cv2.imwrite(str(folder / kind / f'{image:06d}{suffix}'), picture)
        files = scenes.setdefault(folder, ({}, {}, {}))
        files[0][str(image)] = {'cam_K': matrix.ravel().tolist(), 'depth_scale': 1.0}
        files[1][str(image)] = truths
        files[2][str(image)] = infos
    for folder, files in scenes.items():
        for name, values in zip(('scene_camera', 'scene_gt', 'scene_gt_info'), files):
            (folder / f'{name}.json').write_text(json.dumps(values))
    (path / 'test_targets_bop19.json').write_text(json.dumps(targets))
    (path / 'detections.json').write_text(json.dumps(detections))
    return path


def run_lengths(mask):
    """Return COCO's uncompressed run lengths of a mask, column by column."""
    flat = np.concatenate([[False], mask.ravel(order='F'), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    if len(changes) and changes[-1] == mask.size:
        counts.pop()
    return {'size': list(mask.shape), 'counts': counts}


def _write_models(path):
    rng = np.random.default_rng(0)
    casters, info = {}, {}
    for number, size in SIZES_MM.items():
        box = trimesh.creation.box(size).subdivide()
        box.visual.vertex_colors = rng.integers(0, 255, (len(box.vertices), 3)).astype(np.uint8)
        for folder in ('models', 'models_eval'):
            (path / folder).mkdir(parents=True, exist_ok=True)
            box.export(path / folder / f'obj_{number:06d}.ply')
        info[str(number)] = {'diameter': float(np.linalg.norm(size))}
        casters[number] = RayCaster(load_mesh(path / f'models/obj_{number:06d}.ply', 0.001))
    info['2']['symmetries_discrete'] = [HALF_TURN]
    for folder in ('models', 'models_eval'):
        (path / folder / 'models_info.json').write_text(json.dumps(info))
    return casters
