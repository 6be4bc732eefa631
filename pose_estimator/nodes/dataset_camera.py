"""Node that plays a data set of the BOP benchmark as if it were a camera."""

from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from .conversions import pose_message
from .parameters import Parameter
from .process import advertise, reliable_qos, run
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
    """
    Publishes the images of a data set with the intrinsics of each.

    Where the data set knows the true poses, they are published on `truth`, which no other node
    hears; the score of a true pose is the visible fraction of its object.
    """

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
        self.truth = advertise(self, Detection3DArray, 'truth', reliable_qos(100))

    def pictures(self):
        """Yield the images with their cameras, in the order of their numbers."""
        for scene, number in self.playlist:
            image = self.dataset.image(scene, number)
            camera = self.dataset.camera(scene, number, image.shape[1], image.shape[0])
            yield (image, camera,
                   lambda header, scene=scene, number=number: self.tell(header, scene, number))

    def tell(self, header, scene, number):
        """Publish what is true of an image."""
        folder = self.dataset.image_path(scene, number).parent.parent
        if not (folder / 'scene_gt.json').exists():
            return
        message = Detection3DArray(header=header)
        for truth in self.dataset.truths(scene, number):
            result = ObjectHypothesisWithPose()
            result.hypothesis.class_id = f'obj_{truth.object_id:06d}'
            seen = truth.visible_fraction
            result.hypothesis.score = 1.0 if seen is None else float(seen)
            result.pose.pose = pose_message(truth.pose)
            message.detections.append(Detection3D(
                header=header, id=f'{scene}/{number}/{truth.object_id}', results=[result]))
        self.truth.publish(message)


def parse_truth_id(text):
    """Return scene_id, image_id and object_id of a true pose's id."""
    return tuple(map(int, text.split('/')))


def main():
    """Run the node."""
    run(DatasetCamera)


if __name__ == '__main__':
    main()
