"""Networks for onnxruntime, which computes small ones on a CPU in half of torch's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from retrieval.errors import DeviceBusy, ModelRefused

MICROSOFT = "com.microsoft"  # onnxruntime's own operators, whole halves of a transformer
OPSETS = {"": 17, MICROSOFT: 1}
IR_VERSION = 10


Inputs = Mapping[str, tuple[int, Sequence[int | str]]]
"""Type (of TensorProto) and shape by name; a word stands for a length that varies."""


class Graph:
    """A network written down operator by operator; every value is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def weight(self, values: torch.Tensor | float) -> str:
        """Add a constant; its name is returned."""
        array = np.asarray(values, np.float32)
        self._weights.append(numpy_helper.from_array(array, f"weight{len(self._weights)}"))
        return str(self._weights[-1].name)

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; the name of its first output is returned."""
        output = f"value{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [output], domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def session(self, inputs: Inputs, output: str) -> onnxruntime.InferenceSession:
        """What runs it: from `inputs` to the value named `output`."""
        given = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
        found = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "network", given, found, self._weights)
        opsets = [helper.make_opsetid(*each) for each in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return session(model.SerializeToString())


def session(content: bytes) -> onnxruntime.InferenceSession:
    """On the CPU, with as many threads as torch has here. Raises ModelRefused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes the core that another process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # its errors have no public class in common
        raise ModelRefused("this is no network that onnxruntime can run") from exc


def run(session: onnxruntime.InferenceSession, **inputs: torch.Tensor) -> torch.Tensor:
    """The network's one output, float32. Raises DeviceBusy where a smaller batch may fit."""
    try:
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as exc:  # as above
        if "Failed to allocate memory" not in str(exc) and "bad_alloc" not in str(exc):
            raise
        raise DeviceBusy("the batch does not fit in memory") from exc
    return torch.from_numpy(found)
