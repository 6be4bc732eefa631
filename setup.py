"""Build script of the ament_python package, for colcon and pip."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'pose_estimator'


def shared(folder):
    """List the files of a folder for share/pose_estimator/, one entry per subfolder."""
    files = [
        path for path in sorted(Path(folder).rglob('*'))
        if path.is_file() and '__pycache__' not in path.parts]
    return [
        (f'share/{NAME}/{parent}', [str(path) for path in files if path.parent == parent])
        for parent in sorted({path.parent for path in files})]


def requirements(name):
    """Read the names in a file of requirements/."""
    lines = Path('requirements', name + '.txt').read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


setup(
    name=NAME,
    version='0.1.0',
    description='Object poses from one camera image, learned from virtual data, for ROS 2',
    maintainer='pose_estimator developers',
    maintainer_email='pose_estimator@example.com',
    license='MIT',
    packages=find_packages(include=[NAME, NAME + '.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + NAME]),
        ('share/' + NAME, ['package.xml']),
        *shared('launch'),
        *shared('config'),
        *shared('models'),
    ],
    python_requires='>=3.10',
    # A distribution provides NumPy and OpenCV under other names than pip's, so what the package
    # needs stands in package.xml and, for pip, in extras: pip install '.[core,train]'.
    install_requires=['setuptools'],
    extras_require={name: requirements(name) for name in ('core', 'train', 'test')},
    zip_safe=True,
    entry_points={
        'console_scripts': [
            'pose_estimator = pose_estimator.cli:main',
            'segmentation_node = pose_estimator.nodes.segmentation_node:main',
            'pose_node = pose_estimator.nodes.pose_node:main',
            'pipeline = pose_estimator.nodes.pipeline_node:main',
            'dataset_camera = pose_estimator.nodes.dataset_camera:main',
            'demo_camera = pose_estimator.nodes.demo_camera:main',
            'collision_objects = pose_estimator.nodes.collision_objects:main',
            'grasp_frame = pose_estimator.nodes.grasp_frame:main',
        ],
    },
)
