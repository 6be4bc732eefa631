"""How often an object is found by its print, which tells what it means that it is not."""

import numpy as np
from tqdm import tqdm

from .instance import Instance, mask_box
from .pipeline import sight
from .synthetic.scene import SceneMaker

# Virtual scenes to learn it from; things that are seen to a smaller share do not count.
SCENES, MOSTLY_SEEN, SEED = 40, 0.5, 20261201
WIDTH, HEIGHT = 640, 480
# The longer side of the box, pixels, from one end to the other.
SIDES = (40, 350)
# A side of so many pixels, from which sizes are counted.
USUAL = 100.0
# Of the weights, so that few scenes are enough.
DECAY = 0.01


def fit_sighted(checkpoint, mesh):
    """
    Measure how often landmarks are seen on an object, by its size in the image.

    Parameters
    ----------
    checkpoint : Checkpoint
        With landmarks.
    mesh : Mesh
        Of the object.

    Returns
    -------
    sighted : dict
        Plain numbers for sight_chance.

    """
    from scipy.optimize import minimize
    diameter = checkpoint.model.diameter
    near, far = (WIDTH * diameter / side for side in SIDES[::-1])
    maker = SceneMaker({checkpoint.model.name: mesh}, np.random.default_rng(SEED), WIDTH, HEIGHT,
                       (near, far), empty=0.0)
    sizes, seen = [], []
    for _ in tqdm(range(SCENES), desc=f'{checkpoint.model.name}: how often its print is seen',
                  unit='scene', mininterval=1.0):
        scene, _ = maker.scene()
        masks = [scene.ids == index + 1 for index in range(len(scene.poses))]
        instances = [Instance(checkpoint.model.name, 1.0, mask_box(mask), mask, index)
                     for index, mask in enumerate(masks, 1)
                     if scene.visible[index - 1] >= MOSTLY_SEEN and mask.any()]
        sizes += [_size(one.box) for one in instances]
        seen += [bool(one) for one in sight(checkpoint, scene.image, instances, scene.camera)]

    def loss(parameters):
        logit = parameters[0] + parameters[1] * np.array(sizes)
        return (np.logaddexp(0, logit) - np.array(seen) * logit).mean() + DECAY * (
            parameters ** 2).sum()

    bias, slope = minimize(loss, np.zeros(2)).x.tolist()
    return {'bias': bias, 'slope': slope, 'instances': len(sizes), 'share': float(np.mean(seen))}


def sight_chance(sighted, box):
    """Return the chance that landmarks are seen on the object in a box; see fit_sighted."""
    return float(1 / (1 + np.exp(-(sighted['bias'] + sighted['slope'] * _size(box)))))


def _size(box):
    return float(np.log2(max(np.max(box[2:] - box[:2]), 1) / USUAL))
