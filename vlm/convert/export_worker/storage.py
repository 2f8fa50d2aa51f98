"""How the weights of an exported file are stored: as they are, as fp16, or as int8 or int4 with scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int4": "_q4"}
SMALL = 256  # elements: biases and scales stay as they are
BLOCK = 32  # weights that share a scale, in int4


def store(raw: Path, out: Path, weights: str, external_bytes: int) -> str:
    """Store an exported file, alone in its directory, in `out` under a name that says how. Returns the name.

    Arithmetic stays fp32. fp16: each weight is cast back when it is used. int8: ONNX Runtime's dynamic quantisation of
    matrix products. int4: blocks of 32 weights with a scale, where the operator is ONNX Runtime's own (MatMulNBits).
    """
    made = out / f"{raw.stem}{SUFFIXES[weights]}.onnx"
    large = sum(file.stat().st_size for file in raw.parent.iterdir()) > external_bytes
    if weights == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            raw, made, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, use_external_data_format=large
        )
        return made.name
    model = onnx.load(raw)
    if weights == "fp16":
        _halve(model.graph)
    elif weights == "int4":
        model = _four_bits(model)
    external = {"all_tensors_to_one_file": True, "location": f"{made.name}_data", "size_threshold": 1024}
    onnx.save(model, made, save_as_external_data=large, **(external if large else {}))
    return made.name


def _halve(graph: Any) -> None:
    kept, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALL:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(values.astype("float16"), f"{tensor.name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.fp16"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def _four_bits(model: Any) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    return quantizer.model.model
