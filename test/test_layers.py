"""Imports go down or sideways, never up: the layers of the package, checked with ast."""

import ast
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'pose_estimator'

# A module belongs to the longest name here that it starts with.
LAYERS = {
    # L0 types: numpy, trimesh
    '__init__': 0,
    'assets': 0,
    'camera': 0,
    'errors': 0,
    'geometry': 0,
    'demo.meshes': 0,
    'instance': 0,
    'mesh': 0,
    'object_model': 0,
    # L1 algorithms: OpenCV, SciPy
    'belief': 1,
    'bop': 1,
    'camera_file': 1,
    'demo': 1,
    'drawing': 1,
    'pnp': 1,
    'pose_error': 1,
    'scoring': 1,
    'smoothing': 1,
    'support': 1,
    'synthetic': 1,
    'tracking': 1,
    'true_masks': 1,
    # L2 learning: torch, torchvision
    'devices': 2,
    'keypoints': 2,
    'landmarks': 2,
    'runtimes': 2,
    'learning': 2,
    'muon': 2,
    'packing': 2,
    'refinement': 2,
    'segmentation': 2,
    'synthetic.crops': 2,
    # L3 composition
    '__main__': 3,
    'accuracy': 3,
    'bench': 3,
    'cli': 3,
    'confirmed': 3,
    'evaluate': 3,
    'evaluate_segmenter': 3,
    'keypoints.calibrate': 3,
    'keypoints.report': 3,
    'keypoints.train': 3,
    'pipeline': 3,
    'prints': 3,
    'refinement.pairs': 3,
    'refinement.train': 3,
    'run_images': 3,
    'segmentation.average': 3,
    'segmentation.train': 3,
    'sighting': 3,
    'stability': 3,
    'virtual_dataset': 3,
    # L4 nodes: ROS, only here
    'demo.real': 4,
    'demo.run': 4,
    'nodes': 4,
}
# The lowest layer that may import a library.
LIBRARIES = {
    'cv2': 0, 'scipy': 0, 'trimesh': 0,
    'torch': 2, 'torchvision': 2,
    'rclpy': 4, 'cv_bridge': 4, 'tf2_ros': 4, 'launch': 4, 'launch_ros': 4,
}
# These do not import one another; the train modules (L3) may.
SEPARATE = ('synthetic', 'keypoints', 'segmentation')
ROS = r'(rclpy|rcl_interfaces|builtin_interfaces|cv_bridge|tf2_ros|launch|launch_ros|\w+_msgs)$'


def modules():
    """Map the dotted names inside the package to their files."""
    names = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = list(path.relative_to(PACKAGE).with_suffix('').parts)
        if parts[-1] == '__init__' and len(parts) > 1:
            parts.pop()
        names['.'.join(parts)] = path
    return names


def layer(name):
    """Return a module's layer; a new module has to be given one."""
    parts = name.split('.')
    for length in range(len(parts), 0, -1):
        prefix = '.'.join(parts[:length])
        if prefix in LAYERS:
            return LAYERS[prefix]
    pytest.fail(f'pose_estimator.{name} has no layer: name it in LAYERS of {__file__}')


def imports(name, path, known):
    """List what a module imports: modules of the package, and libraries' top-level names."""
    own, libraries = set(), set()
    folder = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split('.') if node.module else []
            if node.level:
                base = ['pose_estimator', *folder[:len(folder) - node.level + 1], *base]
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] != 'pose_estimator':
                libraries.add(target[0])
                continue
            inner = target[1:]
            while inner and '.'.join(inner) not in known:
                inner = inner[:-1]
            own.add('.'.join(inner) or '__init__')
    own.discard(name)
    return own, libraries


@pytest.fixture(scope='module')
def graph():
    """Give each module with what it imports."""
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def file_of(name):
    """Name a module's file as a reader finds it."""
    return str(modules()[name].relative_to(ROOT))


def test_imports_never_go_up(graph):
    upward = [
        f'{file_of(name)} (L{layer(name)}) imports {file_of(target)} (L{layer(target)})'
        for name, (own, _) in graph.items() for target in sorted(own)
        if layer(target) > layer(name)]
    assert not upward, '\n'.join(upward)


def test_libraries_stay_in_their_layers(graph):
    misplaced = [
        f'{file_of(name)} (L{layer(name)}) imports {library}'
        for name, (_, libraries) in graph.items() for library in sorted(libraries)
        if layer(name) < (4 if library.endswith('_msgs') else LIBRARIES.get(library, 0))]
    assert not misplaced, '\n'.join(misplaced)


def test_synthetic_keypoints_and_segmentation_are_separate(graph):
    mixed = [
        f'{file_of(name)} imports {file_of(target)}'
        for name, (own, _) in graph.items() for target in sorted(own)
        if layer(name) < 3 and name.split('.')[0] in SEPARATE
        and target.split('.')[0] in SEPARATE and name.split('.')[0] != target.split('.')[0]]
    assert not mixed, '\n'.join(mixed)


def test_no_cycles(graph):
    finished = set()

    def walk(name, trail):
        if name in trail:
            cycle = [*trail[trail.index(name):], name]
            pytest.fail('a cycle: ' + ' -> '.join(file_of(member) for member in cycle))
        if name not in finished:
            for target in sorted(graph[name][0]):
                walk(target, [*trail, name])
            finished.add(name)

    for name in graph:
        walk(name, [])


def test_the_core_imports_without_ros():
    script = (
        'import importlib, re, sys\n'
        'class Blocked:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        f'        if re.match(r"{ROS}", name):\n'
        '            raise ImportError(name + " is blocked by the test")\n'
        'sys.meta_path.insert(0, Blocked())\n'
        'import pose_estimator.pipeline\n'
        '# It takes a second to import, and only segmenters need it.\n'
        'assert "torchvision" not in sys.modules\n'
        'for module in ("cli", "evaluate", "run_images"):\n'
        '    importlib.import_module("pose_estimator." + module)\n')
    step = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    assert step.returncode == 0, step.stdout
