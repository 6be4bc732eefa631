"""Devices of torch by name."""

import ctypes
import os
from pathlib import Path
import platform

import torch
from torch import distributed

from .errors import InputError


def torch_device(name):
    """Return the torch.device of a name such as 'cuda:1'; refuse one that is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split('\n')[0]
        raise InputError(f'device: expected cpu or a GPU that is there, got {name!r}: '
                         f'{reason}') from error
    return device


def training_device(name='auto'):
    """
    Return the torch.device to train on and make ready for it.

    Parameters
    ----------
    name : str or torch.device
        'auto': a GPU if there is one, that of this process's rank if torchrun started several.

    """
    if name == 'auto':
        name = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu'
    device = torch_device(name)
    # All steps have the same shapes, so that finding the fastest convolutions pays.
    torch.backends.cudnn.benchmark = device.type == 'cuda'
    return device


def has_fast_bfloat16(device):
    """Return whether convolutions in bfloat16 are faster than in float32 on a device."""
    device = torch.device(device)
    if device.type == 'cpu':
        # Without instructions for it, bfloat16 is emulated; with those of AVX-512 it is faster on
        # AMD's processors and slower on Intel's, which are fast at it with AMX (docs/accuracy.md).
        has = {name: getattr(torch.cpu, f'_is_{name}_supported', lambda: False)()
               for name in ('avx512_bf16', 'amx_tile')}
        return has['amx_tile'] or has['avx512_bf16'] and 'AMD' in processor_name()
    return device.type == 'cuda' and torch.cuda.is_bf16_supported()


def keep_freed_memory():
    """
    Let this process, and those it forks, keep memory for its next tensors.

    The C library of Linux gives large blocks back at once and has every page cleared when it
    asks for them again; for batches of crops that costs a quarter of the time.

    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not the GNU C library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 2 ** 31 - 1)


def join_processes(on_cpu):
    """Join the others that torchrun started, if any; return rank and number of processes."""
    world = int(os.environ.get('WORLD_SIZE', 1))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group('gloo' if on_cpu else 'nccl')
    return int(os.environ.get('RANK', 0)), world


def agree(progress, world, device):
    """Return the progress of the first process: all must stop after the same step."""
    if world == 1:
        return progress
    shared = torch.tensor([progress], device=device, dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return shared.item()


def processor_name():
    """Return the name of this machine's processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':')[1].strip() for line in lines if 'model name' in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_name(device='cpu'):
    """Return what a training ran on: the GPU, if it is one, and the processor's cores."""
    device = torch.device(device)
    cores = f'{os.cpu_count()} cores of {processor_name()}'
    return f'{torch.cuda.get_device_name(device)}, {cores}' if device.type == 'cuda' else cores
