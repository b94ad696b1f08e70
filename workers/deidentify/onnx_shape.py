"""Free the fixed input shape of an ONNX model without the `onnx` package.

Some detectors are published for one input size although every layer takes any. onnxruntime refuses
another size than the file names, so the file is rewritten on its way into memory. An ONNX file is
one protocol buffer (onnx/onnx.proto3): only the records named below are touched.
"""

from collections.abc import Iterator

# Field numbers of onnx.proto3.
_MODEL_GRAPH = 7
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 11, 12, 13
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 1, 2
_SHAPE_DIMENSION, _DIMENSION_NAME = 1, 2
_FLOAT = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def free_shapes(model: bytes, dimensions: dict[str, tuple[str, ...]]) -> bytes:
    """Return `model` with named, free dimensions on its inputs and none on its outputs.

    dimensions: for each true input its symbolic dimensions, such as ("n", "c", "h", "w"); inputs
    are taken to be float32. Inputs that only repeat a weight are dropped, so the weights become
    constants the runtime may fold. Raises ValueError if `model` is not a protocol buffer.
    """
    return b"".join(
        _record(field, _free_graph(value, dimensions)) if field == _MODEL_GRAPH else raw
        for field, value, raw in _records(model)
    )


def _free_graph(graph: bytes, dimensions: dict[str, tuple[str, ...]]) -> bytes:
    kept = []
    for field, value, raw in _records(graph):
        if field == _GRAPH_INPUT:
            name = _text(value, _VALUE_NAME)
            if name in dimensions:
                kept.append(_record(_GRAPH_INPUT, _float_value(name, dimensions[name])))
        elif field == _GRAPH_OUTPUT:
            kept.append(_record(_GRAPH_OUTPUT, _float_value(_text(value, _VALUE_NAME), None)))
        elif field != _GRAPH_VALUE_INFO:
            kept.append(raw)
    return b"".join(kept)


def _float_value(name: str, dimensions: tuple[str, ...] | None) -> bytes:
    """Return a ValueInfoProto of a float32 tensor; without dimensions, of any shape."""
    tensor = _number(_TENSOR_ELEMENT, _FLOAT)
    if dimensions is not None:
        shape = b"".join(
            _record(_SHAPE_DIMENSION, _record(_DIMENSION_NAME, dimension.encode()))
            for dimension in dimensions
        )
        tensor += _record(_TENSOR_SHAPE, shape)
    return _record(_VALUE_NAME, name.encode()) + _record(_VALUE_TYPE, _record(_TYPE_TENSOR, tensor))


def _text(message: bytes, wanted: int) -> str:
    return next((value.decode() for field, value, _ in _records(message) if field == wanted), "")


def _records(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (field number, content if length-delimited, the whole record) in order."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        kind, first = key & 7, at
        if kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind == _BYTES:
            size, first = _read_varint(message, at)
            at = first + size
        elif kind in _FIXED_SIZES:
            at += _FIXED_SIZES[kind]
        else:
            raise ValueError("not a protocol buffer")
        if at > len(message):
            raise ValueError("not a protocol buffer")
        yield key >> 3, message[first:at] if kind == _BYTES else b"", message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the high bit says that more bytes follow
            return value, at
        shift += 7
    raise ValueError("not a protocol buffer")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _record(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content
