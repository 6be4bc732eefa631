"""Markers for RViz: a box or a mesh and a name for each object, deleted when it is gone."""

from geometry_msgs.msg import Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from .conversions import pose_message
from .results import box_pose, box_size
from ..object_model import UNITS

BLUE = ColorRGBA(r=0.15, g=0.35, b=1.0, a=0.45)
WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
SHAPE, TEXT = 0, 1


class ObjectMarkers:
    """
    Markers of the objects of one image after the other.

    Parameters
    ----------
    models : dict
        Name -> ObjectModel.
    mesh_resources : dict
        Name -> URI of a mesh in the model's unit, such as package://my_robot/meshes/cup.dae;
        objects without one are drawn as boxes.

    """

    def __init__(self, models, mesh_resources):
        self._models = models
        self._mesh_resources = mesh_resources
        self._shown = set()

    def update(self, named, header):
        """Return markers for named instances, and DELETE for what was shown before and is gone."""
        message = MarkerArray()
        names = {name for name, _ in named}
        for name in sorted(self._shown - names):
            for number in (SHAPE, TEXT):
                message.markers.append(Marker(header=header, ns=name, id=number,
                                              action=Marker.DELETE))
        self._shown = names
        for name, found in named:
            model = self._models[found.name]
            message.markers += [self._shape(name, model, found.pose, header),
                                self._text(name, model, found, header)]
        return message

    def _shape(self, name, model, pose, header):
        marker = Marker(header=header, ns=name, id=SHAPE, action=Marker.ADD)
        resource = self._mesh_resources.get(model.name)
        if resource is None:
            marker.type = Marker.CUBE
            marker.pose = pose_message(box_pose(model, pose))
            marker.scale, marker.color = box_size(model), BLUE
            return marker
        unit = float(UNITS[model.unit])
        marker.type = Marker.MESH_RESOURCE
        marker.mesh_resource, marker.mesh_use_embedded_materials = resource, True
        marker.pose = pose_message(pose)
        marker.scale, marker.color = Vector3(x=unit, y=unit, z=unit), WHITE
        return marker

    def _text(self, name, model, found, header):
        marker = Marker(header=header, ns=name, id=TEXT, action=Marker.ADD)
        marker.type = Marker.TEXT_VIEW_FACING
        marker.text = f'{name} {found.score:.2f}'
        marker.pose = pose_message(box_pose(model, found.pose))
        marker.pose.position.y -= model.diameter / 2  # up, in an optical frame
        marker.scale.z = model.diameter / 5
        marker.color = WHITE
        return marker
