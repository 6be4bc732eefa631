"""Start segmentation_node and pose_node, each in its process, and RViz if wanted."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(get_package_share_directory('pose_estimator')) / 'config'

ARGUMENTS = (
    ('image', '/camera/image_raw', 'Topic of the images.'),
    ('info', '/camera/camera_info', 'Topic of the camera info.'),
    ('namespace', '', 'Namespace of the nodes and of the topics that they publish.'),
    ('params_file', str(CONFIG / 'pipeline.yaml'), 'Parameter file of both nodes.'),
    ('device', '', 'cpu, cuda or cuda:N; empty: as the parameter file says.'),
    ('models', '', 'Folder of the trained objects and of segmenter.safetensors; empty: as the '
     'parameter file says.'),
    ('image_transport', '', 'raw or compressed; empty: as the parameter file says.'),
    ('target_frame', '', 'Frame of the poses, through TF; empty: as the parameter file says.'),
    ('autostart', '', 'true or false: whether the nodes configure and activate themselves, rather '
     'than wait for a lifecycle manager; empty: as the parameter file says.'),
    ('use_sim_time', 'false', 'Whether to take the time from /clock.'),
    ('rviz', 'false', 'Whether to start RViz.'),
    ('fixed_frame', 'camera', "RViz's fixed frame: the images' frame_id, or one above it."),
)


def flag(name):
    """Return a parameter of an argument's name; one that is no truth value is refused."""
    return {name: ParameterValue(LaunchConfiguration(name), value_type=bool)}


def make_nodes(context):
    """Return the two nodes; only arguments that were given override the parameter file."""
    values = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not Path(values['params_file']).is_file():  # the nodes would start with their defaults
        raise ValueError(f'params_file: expected a file, got {values["params_file"]}')
    overrides = {
        'segmentation_node': {'device': values['device'], 'weights': values['models'] and str(
            Path(values['models']) / 'segmenter.safetensors')},
        'pose_node': {'device': values['device'], 'models': values['models'],
                      'target_frame': values['target_frame']},
    }
    for chosen in overrides.values():
        chosen['image_transport'] = values['image_transport']
    return [Node(
        package='pose_estimator', executable=name, name=name, namespace=values['namespace'],
        output='screen',
        remappings=[('image', values['image']), ('camera_info', values['info'])],
        parameters=[values['params_file'],
                    flag('use_sim_time'), *([flag('autostart')] if values['autostart'] else []),
                    # As strings, whatever they look like.
                    {key: ParameterValue(value, value_type=str)
                     for key, value in chosen.items() if value}],
        # A node finishes the image at hand, which takes seconds on a busy CPU, and so does the
        # end of torch; ros2 launch would report an error after 5 s.
        sigterm_timeout=LaunchConfiguration('sigterm_timeout', default='15'),
    ) for name, chosen in overrides.items()]


def generate_launch_description():
    """Return what ros2 launch starts."""
    rviz = Node(
        package='rviz2', executable='rviz2', namespace=LaunchConfiguration('namespace'),
        arguments=['-d', str(CONFIG / 'pipeline.rviz'),
                   '-f', LaunchConfiguration('fixed_frame')],
        remappings=[('image', LaunchConfiguration('image'))],
        parameters=[flag('use_sim_time')],
        condition=IfCondition(LaunchConfiguration('rviz')))
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, default, description in ARGUMENTS),
        OpaqueFunction(function=make_nodes),
        rviz,
    ])
