"""The commands."""

import argparse
import importlib
import sys

from .errors import InputError

# Name -> module with add_arguments(parser) and run(args), and one line of help.
COMMANDS = {
    'demo': ('demo.run', 'camera, segmenter and pose node on a virtual scene'),
    'train': ('keypoints.train', 'a keypoint model from a mesh'),
    'calibrate': ('keypoints.calibrate', 'the score of a trained model, fitted anew'),
    'train-refiner': ('refinement.train', 'what mends poses, for all objects'),
    'train-segmenter': ('segmentation.train', 'a segmenter from meshes'),
    'average-segmenters': ('segmentation.average', 'one segmenter of several trainings'),
    'virtual-dataset': ('virtual_dataset', 'virtual scenes with true poses, to measure on'),
    'evaluate-segmenter': ('evaluate_segmenter', 'boxes and masks on a BOP data set'),
    'evaluate': ('evaluate', 'poses on a BOP data set against the true ones'),
    'accuracy': ('accuracy', 'the tables of docs/accuracy.md'),
    'stability': ('stability', 'how steady poses are in a virtual video'),
    'run': ('run_images', 'poses in images or a video'),
    'bench': ('bench', 'timings on this machine'),
}


def main(argv=None):
    """Run a command; return its exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog='pose_estimator', description='6-DoF poses of known '
                                     'rigid objects from one colour camera.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, (module, line) in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        if argv and argv[0] == name:  # import only what is asked for
            implementation = importlib.import_module('.' + module, __package__)
            command.description = implementation.__doc__
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            implementation.add_arguments(command)
    args = parser.parse_args(argv)
    try:
        return implementation.run(args)
    except InputError as error:
        print('error:', ' '.join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
