"""What onnxruntime computes: on this process' share of the cores, and never out of memory."""

import pytest
import torch
from onnx import TensorProto

from retrieval.errors import DeviceBusy, ModelRefused
from workers.encode.onnx_graph import Graph, run, session


def test_a_network_takes_as_many_cores_as_the_process_and_leaves_them_when_idle() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        graph = Graph()
        doubled = graph.add("Add", "x", "x")
        network = graph.session({"x": (TensorProto.FLOAT, ["n"])}, doubled)
    finally:
        torch.set_num_threads(threads)

    options = network.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert run(network, x=torch.ones(3)).tolist() == [2, 2, 2]


def test_what_does_not_fit_in_memory_may_fit_in_parts() -> None:
    graph = Graph()
    zeros = graph.add("ConstantOfShape", "shape")
    network = graph.session({"shape": (TensorProto.INT64, [2])}, zeros)

    with pytest.raises(DeviceBusy):
        run(network, shape=torch.tensor([1 << 25, 1 << 25]))


def test_a_network_it_cannot_run_is_refused() -> None:
    with pytest.raises(ModelRefused, match="onnxruntime"):
        session(b"not a network")
