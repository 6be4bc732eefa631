"""Parameters of the nodes: declared, checked and documented from one table."""

from dataclasses import dataclass
import json
import math
from typing import Any, Optional

from rcl_interfaces.msg import (
    FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult)
from rclpy.exceptions import ParameterException

from ..errors import InputError


@dataclass(frozen=True)
class Parameter:
    """
    One parameter of a node.

    Parameters
    ----------
    name : str
    default : bool, int, float, str or list of str
        Also says the type. An empty list is written [''], as ROS cannot tell the type of [].
    description : str
    range : tuple
        Least and greatest value, of numbers.
    choices : tuple
        Values allowed; empty: any.
    live : bool
        Whether it can be set while the node runs.

    """

    name: str
    default: Any
    description: str
    range: Optional[tuple] = None
    choices: tuple = ()
    live: bool = False

    def fault(self, value):
        """Return why a value is refused, or an empty string."""
        if isinstance(value, float) and not math.isfinite(value):
            return f'{self.name}: expected a finite number, got {value}'
        if self.choices and value not in self.choices:
            return f'{self.name}: expected one of {", ".join(self.choices)}, got {value!r}'
        if self.range and not self.range[0] <= value <= self.range[1]:
            return (f'{self.name}: expected {self.range[0]} to {self.range[1]}, '
                    f'got {value}')
        return ''

    @property
    def limits(self):
        """What values are allowed, in words."""
        if self.choices:
            return ', '.join(self.choices)
        return f'{self.range[0]} to {self.range[1]}' if self.range else ''

    def descriptor(self):
        """Return the description that ROS keeps with the parameter."""
        made = ParameterDescriptor(description=self.description, read_only=not self.live,
                                   additional_constraints=self.limits if self.choices else '')
        if self.range and isinstance(self.default, float):
            made.floating_point_range.append(FloatingPointRange(
                from_value=self.range[0], to_value=self.range[1]))
        elif self.range:
            made.integer_range.append(IntegerRange(
                from_value=self.range[0], to_value=self.range[1], step=1))
        return made


class Parameters:
    """
    The values of a node's parameters, as attributes.

    Parameters
    ----------
    node : rclpy.node.Node
    table : tuple of Parameter

    Raises
    ------
    InputError
        For a value of the wrong type or outside its range.

    """

    def __init__(self, node, table):
        self._table = {one.name: one for one in table}
        for one in table:
            try:
                value = node.declare_parameter(one.name, one.default, one.descriptor()).value
            except ParameterException as error:
                raise InputError(f'parameter {one.name}: {error}') from error
            fault = one.fault(value)
            if fault:
                raise InputError(f'parameter {fault}')
            setattr(self, one.name, value)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, changes):
        own = [change for change in changes if change.name in self._table]
        for change in own:
            fault = self._table[change.name].fault(change.value)
            if fault:
                return SetParametersResult(successful=False, reason=fault)
        for change in own:
            setattr(self, change.name, change.value)
        return SetParametersResult(successful=True)


def strings(values):
    """Return a list of strings without the empty ones that stand for an empty list."""
    return [value for value in values if value]


def pairs(name, values):
    """Return the dict of strings such as 'key=value'."""
    made = {}
    for value in strings(values):
        key, equals, target = value.partition('=')
        if not (key and equals and target):
            raise InputError(f'parameter {name}: expected key=value, got {value!r}')
        made[key] = target
    return made


def markdown(table):
    """Return the parameters as a table for the documentation."""
    lines = ['| parameter | default | allowed | live | meaning |', '|---|---|---|---|---|']
    for one in table:
        lines.append(f'| `{one.name}` | `{json.dumps(one.default)}` | {one.limits} '
                     f'| {"yes" if one.live else "no"} | {one.description} |')
    return '\n'.join(lines)
