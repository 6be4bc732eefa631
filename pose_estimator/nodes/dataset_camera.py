"""Node that plays a data set of the BOP benchmark as if it were a camera."""

import sys

from .parameters import Parameter
from .process import run
from .virtual_camera import PARAMETERS as CAMERA_PARAMETERS, VirtualCamera
from ..bop import BopDataset
from ..errors import InputError

PARAMETERS = (
    Parameter('dataset', '', 'Folder of the data set.'),
    Parameter('split', 'test', 'Its folder of scenes.'),
    Parameter('scene', -1, 'Number of the scene; -1: all, one after the other.',
              range=(-1, 999999)),
) + CAMERA_PARAMETERS


class DatasetCamera(VirtualCamera):
    """Publishes the images of a data set with the intrinsics of each."""

    def __init__(self):
        super().__init__('dataset_camera', PARAMETERS)
        if not self.parameters.dataset:
            raise InputError('parameter dataset: expected the folder of a BOP data set, got none')
        self.dataset = BopDataset(self.parameters.dataset, self.parameters.split)
        images = self.dataset.images()
        scene = self.parameters.scene
        self.playlist = [image for image in images if scene in (-1, image[0])]
        if not self.playlist:
            raise InputError(f'parameter scene: expected one of '
                             f'{sorted({image[0] for image in images})}, got {scene}')

    def pictures(self):
        """Yield the images with their cameras, in the order of their numbers."""
        for scene, number in self.playlist:
            image = self.dataset.image(scene, number)
            camera = self.dataset.camera(scene, number, image.shape[1], image.shape[0])
            yield image, camera, lambda header: None


def main():
    """Run the node."""
    return run(DatasetCamera)


if __name__ == '__main__':
    sys.exit(main())
