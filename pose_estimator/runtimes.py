"""
Ways to run a network of convolutions.

A runtime is a function that takes a module in eval mode, in float32, whose output is a list or
tuple of tensors, and returns a function from images (B, C, H, W) in float32, on the device of the
module, to a list of the same in float32. RUNTIMES names them; `make bench` compares them.
"""

import copy
import functools
import importlib.util
import operator
import sys
import tempfile
import warnings

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from .devices import has_fast_bfloat16

# Compiled for so many image sizes at a time, where a runtime compiles for each.
MOST_SIZES = 4
# What runtimes need besides torch.
_PACKAGES = {'onnxruntime': ('onnx', 'onnxruntime'), 'openvino': ('openvino',),
             'openvino float32': ('openvino',)}


def eager(network):
    """Run as it is."""
    return lambda images: list(network(images))


def bfloat16(network):
    """Run in bfloat16, for which some processors have instructions."""
    half = copy.deepcopy(network).to(torch.bfloat16)
    return lambda images: [one.float() for one in half(images.bfloat16())]


def compiled(network):
    """Run what torch.compile makes of it; needs a C++ compiler."""
    return torch.compile(copy.deepcopy(network))


def onnxruntime(network):
    """Run in ONNX Runtime (packages onnx and onnxruntime), compiled for each size of images."""
    import onnxruntime as runtime
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    ready = {}

    def compile_for(images):
        height, width = images.shape[2:]
        print(f'compiling for images of {width} x {height}, which takes seconds',
              file=sys.stderr, flush=True)
        frozen = copy.deepcopy(network).eval().requires_grad_(False)
        with torch.inference_mode(False), warnings.catch_warnings(), \
                tempfile.NamedTemporaryFile(suffix='.onnx') as file:
            warnings.simplefilter('ignore')  # of tracing
            torch.onnx.export(frozen, (images.clone(),), file.name, dynamo=False,
                              opset_version=17)
            return runtime.InferenceSession(file.name, options,
                                            providers=['CPUExecutionProvider'])

    def run(images):
        size = tuple(images.shape)
        if size not in ready:
            while len(ready) >= MOST_SIZES:
                del ready[next(iter(ready))]
            ready[size] = compile_for(images)
        name = ready[size].get_inputs()[0].name
        return [torch.from_numpy(one) for one in ready[size].run(None, {name: images.numpy()})]
    return run


@functools.lru_cache(maxsize=1)
def _core():
    """Return OpenVINO's core, one for the process: with the last one its libraries would go."""
    import openvino as runtime
    return runtime.Core()


def openvino(network, fast=None):
    """
    Run in OpenVINO (package openvino).

    Parameters
    ----------
    network : Module
        See openvino_model for what may be in it.
    fast : bool
        Whether in bfloat16; default: where the processor is faster with it.

    """
    fast = has_fast_bfloat16('cpu') if fast is None else fast
    options = {'INFERENCE_NUM_THREADS': torch.get_num_threads(), 'PERFORMANCE_HINT': 'LATENCY',
               'INFERENCE_PRECISION_HINT': 'bf16' if fast else 'f32',
               # Pinned, the threads of two processes would share a core and leave another idle.
               'ENABLE_CPU_PINNING': False}
    compiled_model = _core().compile_model(openvino_model(network), 'CPU', options)
    request = compiled_model.create_infer_request()

    def run(images):
        found = request.infer({0: np.ascontiguousarray(images.numpy())})
        return [torch.from_numpy(found[index]) for index in range(len(found))]
    return run


RUNTIMES = {
    'eager': eager, 'bfloat16': bfloat16, 'compiled': compiled, 'onnxruntime': onnxruntime,
    'openvino float32': lambda network: openvino(network, False), 'openvino': openvino}


def missing_packages(name):
    """Return the packages that a runtime needs and that are not installed."""
    return [package for package in _PACKAGES.get(name, ())
            if importlib.util.find_spec(package) is None]


def fastest(device):
    """Return the name of the runtime that is the fastest of those that are there."""
    if torch.device(device).type == 'cpu' and not missing_packages('openvino'):
        return 'openvino'
    return 'bfloat16' if has_fast_bfloat16(device) else 'eager'


def openvino_model(network):
    """
    Return the openvino.Model of a network, for any number of images of any size.

    OpenVINO's own conversion would run the network to trace it, which takes seconds, and tell
    its makers over the internet that it was used.

    Parameters
    ----------
    network : Module
        Of the layers below, sums, quotients, and maps enlarged to twice their sides; in float32.

    Raises
    ------
    NotImplementedError
        For anything else in it.

    """
    import openvino as runtime
    modules = dict(network.named_modules())
    values: dict = {}

    def value(argument):
        return values.get(argument) if isinstance(argument, fx.Node) else argument

    for node in _Tracer().trace(network).nodes:
        given = [value(one) for one in node.args]
        if node.op == 'placeholder':
            # The first convolution knows how many channels images have.
            first = next(one for one in modules.values() if isinstance(one, nn.Conv2d))
            values[node] = image = runtime.opset13.parameter(
                runtime.PartialShape([-1, first.in_channels, -1, -1]), np.float32)
        elif node.op == 'call_module':
            values[node] = _layer(modules[node.target], given[0])
        elif node.op == 'call_function' and node.target in _FUNCTIONS:
            values[node] = _FUNCTIONS[node.target](*given, **node.kwargs)
        elif node.op == 'call_method' and node.target == 'contiguous':
            values[node] = given[0]
        elif node.op == 'output':
            results = [runtime.opset13.result(values[one]) for one in node.args[0]]
            return runtime.Model(results, [image])
        elif not (node.target is getattr or node.target is operator.getitem):  # of a shape
            raise NotImplementedError(f'no conversion to OpenVINO of {node.op} {node.target}')
    raise NotImplementedError('no conversion to OpenVINO of a network without output')


class _Tracer(fx.Tracer):
    """Takes torchvision's batch norm for a layer, as it does torch's."""

    def is_leaf_module(self, module, name):
        """Return whether not to look inside."""
        return _is_frozen_norm(module) or super().is_leaf_module(module, name)


def _is_frozen_norm(module):
    """Return whether it is torchvision's, which takes a second to import and few networks need."""
    ops = sys.modules.get('torchvision.ops')
    return ops is not None and isinstance(module, ops.FrozenBatchNorm2d)


def _layer(module, x):
    """Return what a module of torch.nn makes of a node of OpenVINO."""
    from openvino import opset13 as ops

    def number(tensor):
        return ops.constant(tensor.detach().numpy())

    if isinstance(module, nn.Conv2d) and module.padding_mode == 'zeros':
        shape = module.weight.shape
        arguments = (module.stride, module.padding, module.padding, module.dilation)
        if module.groups == 1:
            x = ops.convolution(x, number(module.weight), *arguments)
        else:
            weight = module.weight.reshape(module.groups, -1, *shape[1:])
            x = ops.group_convolution(x, number(weight), *arguments)
    elif isinstance(module, nn.ConvTranspose2d) and module.padding == (0, 0) and (
            module.groups == 1 and module.output_padding == (0, 0)):
        x = ops.convolution_backprop_data(x, number(module.weight), module.stride,
                                          pads_begin=(0, 0), pads_end=(0, 0),
                                          dilations=module.dilation)
    elif isinstance(module, nn.BatchNorm2d) or _is_frozen_norm(module):
        scale = module.weight / torch.sqrt(module.running_var + module.eps)
        shift = module.bias - module.running_mean * scale
        return ops.add(ops.multiply(x, number(scale.reshape(1, -1, 1, 1))),
                       number(shift.reshape(1, -1, 1, 1)))
    elif isinstance(module, nn.ReLU):
        return ops.relu(x)
    elif isinstance(module, nn.ReLU6):
        return ops.clamp(x, 0.0, 6.0)
    elif isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return ops.pad(x, ops.constant([0, 0, top, left]), ops.constant([0, 0, bottom, right]),
                       'constant', ops.constant(np.float32(0)))
    elif isinstance(module, nn.MaxPool2d):
        return _max_pool(x, module.kernel_size, module.stride, module.padding, module.dilation,
                         ceil_mode=module.ceil_mode)
    elif isinstance(module, nn.Identity):
        return x
    else:
        raise NotImplementedError(f'no conversion to OpenVINO of {module}')
    return x if module.bias is None else ops.add(x, number(module.bias.reshape(1, -1, 1, 1)))


def _max_pool(x, kernel_size, stride=None, padding=0, dilation=1, **others):
    from openvino import opset13 as ops
    if dilation != 1 or any(others.values()):
        raise NotImplementedError('no conversion to OpenVINO of such a pooling')
    kernel, step = (kernel_size,) * 2, (stride or kernel_size,) * 2
    return ops.max_pool(x, step, (1, 1), (padding,) * 2, (padding,) * 2, kernel).output(0)


def _divide(x, divisor):
    from openvino import opset13 as ops
    return ops.divide(x, ops.constant(np.float32(divisor)))


def _twice_as_large(x, size=None, scale_factor=None, mode='nearest', **others):
    """Return maps enlarged to a size that is known to be twice theirs."""
    from openvino import opset13 as ops
    if mode != 'nearest' or scale_factor not in (None, 2):
        raise NotImplementedError('no conversion to OpenVINO of such an interpolation')
    return ops.interpolate(x, ops.constant(np.array([2, 2], np.float32)), mode, 'scales',
                           axes=ops.constant([2, 3]), nearest_mode='floor',
                           coordinate_transformation_mode='asymmetric')


def _add(first, second):
    from openvino import opset13 as ops
    return ops.add(first, second)


def _relu(x, inplace=False):
    from openvino import opset13 as ops
    return ops.relu(x)


_FUNCTIONS = {
    operator.add: _add, operator.iadd: _add, operator.truediv: _divide, functional.relu: _relu,
    functional.max_pool2d: _max_pool, functional.interpolate: _twice_as_large}
