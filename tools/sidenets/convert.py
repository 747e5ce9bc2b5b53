"""Small nets as the daemon runs them best: `convert.py IN.tflite OUT.onnx` makes an ONNX net of a small convolutional TFLite one, and
`convert.py IN.onnx OUT.onnx` a lighter one of a net that listens.

TFLite keeps pictures as rows, columns, channels; the ONNX net is given channels, rows, columns. Half-precision weights become f32.
Names of inputs and outputs stay. An operator outside the list below is refused by name.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

TYPES = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.INT32: np.int32}
OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
FUSED = {tflite.ActivationFunctionType.NONE: None, tflite.ActivationFunctionType.RELU: "Relu"}
CHANNELS_FIRST = (0, 3, 1, 2)


def options(operator, kind):
    out = kind()
    table = operator.BuiltinOptions()
    out.Init(table.Bytes, table.Pos)
    return out


class Graph:
    """A TFLite graph as it becomes an ONNX one."""

    def __init__(self, data):
        if data[4:8] != b"TFL3":
            raise SystemExit("no TFLite file: it does not begin with TFL3")
        self.model = tflite.Model.GetRootAs(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.nodes, self.weights, self.made = [], [], 0
        self.values = {}
        for i in range(self.graph.TensorsLength()):
            tensor = self.graph.Tensors(i)
            buffer = self.model.Buffers(tensor.Buffer())
            if buffer.DataLength():
                if tensor.Type() not in TYPES:
                    raise SystemExit(f"tensor {self.name(i)} has the type {tensor.Type()}, which is not converted")
                flat = np.frombuffer(buffer.DataAsNumpy().tobytes(), TYPES[tensor.Type()])
                self.values[i] = flat.reshape(self.shape(i))

    def shape(self, i):
        return [int(n) for n in np.atleast_1d(self.graph.Tensors(i).ShapeAsNumpy())]

    def name(self, i):
        return self.graph.Tensors(i).Name().decode()

    def constant(self, array):
        self.made += 1
        name = f"weight {self.made}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind, inputs, output=None, **attributes):
        self.made += 1
        output = output or f"value {self.made}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def operand(self, i):
        """A tensor's name; a constant is turned as pictures are."""
        if i not in self.values:
            return self.name(i)
        array = self.values[i].astype(np.float32)
        if array.ndim == 4:
            array = array.transpose(CHANNELS_FIRST)
        elif array.ndim == 3:
            array = array.transpose(2, 0, 1)
        return self.constant(array)

    def activated(self, function, output, kind, inputs, **attributes):
        """A node whose output goes through a fused activation."""
        if FUSED.get(function, False) is False:
            raise SystemExit(f"the activation {function} at {output} is not converted")
        if FUSED[function] is None:
            self.node(kind, inputs, output, **attributes)
        else:
            self.node(FUSED[function], [self.node(kind, inputs, **attributes)], output)

    def convolve(self, operator, inputs, output, depthwise):
        o = options(operator, tflite.DepthwiseConv2DOptions if depthwise else tflite.Conv2DOptions)
        kernel = self.values[inputs[1]].astype(np.float32)
        if depthwise:
            kernel, groups = kernel.transpose(3, 0, 1, 2), kernel.shape[3]
            if o.DepthMultiplier() != 1:
                raise SystemExit(f"a depth multiplier of {o.DepthMultiplier()} at {output} is not converted")
        else:
            kernel, groups = kernel.transpose(CHANNELS_FIRST), 1
        if (o.DilationHFactor(), o.DilationWFactor()) != (1, 1):
            raise SystemExit(f"a dilated convolution at {output} is not converted")
        bias = [self.constant(self.values[inputs[2]].astype(np.float32))] if len(inputs) > 2 and inputs[2] >= 0 else []
        strides = [o.StrideH(), o.StrideW()]
        self.activated(o.FusedActivationFunction(), output, "Conv", [self.name(inputs[0]), self.constant(kernel), *bias], group=groups,
                       strides=strides, pads=self.padding(o.Padding(), self.shape(inputs[0])[1:3], kernel.shape[2:], strides))

    def pool(self, operator, inputs, output):
        o = options(operator, tflite.Pool2DOptions)
        kernel, strides = [o.FilterHeight(), o.FilterWidth()], [o.StrideH(), o.StrideW()]
        self.activated(o.FusedActivationFunction(), output, "MaxPool", [self.name(inputs[0])], kernel_shape=kernel, strides=strides,
                       pads=self.padding(o.Padding(), self.shape(inputs[0])[1:3], kernel, strides))

    def rectify(self, inputs, output):
        """PRelu, of which tract makes more operators than needed. With slopes up to 1 it is the larger of a value and its slope's share; else a
        sum of what is above and below zero."""
        value, slopes = self.name(inputs[0]), self.values[inputs[1]].astype(np.float32).reshape(1, -1, 1, 1)
        if slopes.max() <= 1:
            self.node("Max", [value, self.node("Mul", [value, self.constant(slopes)])], output)
            return
        zero = self.constant(np.zeros((1, 1, 1, 1), np.float32))
        below = self.node("Mul", [self.node("Min", [value, zero]), self.constant(slopes)])
        self.node("Add", [self.node("Max", [value, zero]), below], output)

    @staticmethod
    def padding(kind, size, kernel, strides):
        """TFLite's SAME puts the odd one behind."""
        if kind == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        whole = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, strides)]
        return [p // 2 for p in whole] + [p - p // 2 for p in whole]

    def add(self, operator, inputs, output):
        self.activated(options(operator, tflite.AddOptions).FusedActivationFunction(), output, "Add", [self.operand(i) for i in inputs])

    def pad(self, inputs, output):
        amounts = self.values[inputs[1]].astype(np.int64)[list(CHANNELS_FIRST)]
        self.node("Pad", [self.name(inputs[0]), self.constant(amounts.T.reshape(-1))], output)

    def reshape(self, inputs, shape, output):
        """What is not a picture any more is in TFLite's order."""
        value = self.node("Transpose", [self.name(inputs[0])], perm=[0, 2, 3, 1])
        self.node("Reshape", [value, self.constant(np.array(shape, np.int64))], output)

    def concatenate(self, operator, inputs, shape, output):
        axis = options(operator, tflite.ConcatenationOptions).Axis() % len(shape)
        self.node("Concat", [self.name(i) for i in inputs], output, axis=CHANNELS_FIRST.index(axis) if len(shape) == 4 else axis)

    def operator(self, operator):
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        kind = OPERATORS.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")
        inputs, at = [int(i) for i in operator.InputsAsNumpy()], int(operator.Outputs(0))
        output, shape = self.name(at), self.shape(at)
        if kind == "DEQUANTIZE" and inputs[0] in self.values:
            self.values[at] = self.values[inputs[0]].astype(np.float32)
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            self.convolve(operator, inputs, output, kind != "CONV_2D")
        elif kind == "MAX_POOL_2D":
            self.pool(operator, inputs, output)
        elif kind == "RELU":
            self.node("Relu", [self.name(inputs[0])], output)
        elif kind == "PRELU":
            self.rectify(inputs, output)
        elif kind == "ADD":
            self.add(operator, inputs, output)
        elif kind == "PAD":
            self.pad(inputs, output)
        elif kind == "RESHAPE" and len(self.shape(inputs[0])) == 4 and len(shape) < 4:
            self.reshape(inputs, shape, output)
        elif kind == "CONCATENATION":
            self.concatenate(operator, inputs, shape, output)
        else:
            raise SystemExit(f"the operator {kind} {(code.CustomCode() or b'').decode()} at {output} is not converted")

    def convert(self):
        for i in range(self.graph.OperatorsLength()):
            self.operator(self.graph.Operators(i))

        def about(i):
            shape = self.shape(i)
            shape = [shape[k] for k in CHANNELS_FIRST] if len(shape) == 4 else shape
            return helper.make_tensor_value_info(self.name(i), TensorProto.FLOAT, shape)

        graph = helper.make_graph(self.nodes, "net", [about(int(i)) for i in self.graph.InputsAsNumpy()],
                                  [about(int(i)) for i in self.graph.OutputsAsNumpy()], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def convert(data):
    """The bytes of a TFLite file to those of an ONNX one."""
    return Graph(data).convert().SerializeToString(deterministic=True)


def lighter(data, mirrored=64):
    """An ONNX net whose first convolution runs over a row of samples with its end mirrored: one gather of its windows and one product
    instead. It says the same with fewer copies."""
    model = onnx.load_from_string(data)
    graph = model.graph
    maker = {output: node for node in graph.node for output in node.output}
    constants = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
    conv = next(n for n in graph.node if n.op_type == "Conv")
    pad = maker[maker[conv.input[0]].input[0]]
    about = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    if pad.op_type != "Pad" or about["pads"] != [0, 0] or len(conv.input) != 2:
        raise SystemExit("the first convolution is none over a mirrored row")
    kernel, [stride] = np.ascontiguousarray(constants[conv.input[1]][:, 0, :]), about["strides"]
    length = next(i for i in graph.input if i.name == pad.input[0]).type.tensor_type.shape.dim[1].dim_value
    places = np.concatenate([np.arange(length), np.arange(length - 2, length - 2 - mirrored, -1)])
    width = kernel.shape[1]
    windows = np.stack([places[at:at + width] for at in range(0, len(places) - width + 1, stride)], 1)
    graph.initializer.extend([numpy_helper.from_array(windows, "windows"), numpy_helper.from_array(kernel, "kernel")])
    nodes = []
    for node in graph.node:
        if node is conv:
            nodes += [helper.make_node("Gather", [pad.input[0], "windows"], ["windowed"], axis=1),
                      helper.make_node("MatMul", ["kernel", "windowed"], [conv.output[0]])]
        else:
            nodes.append(node)
    # What only the old way needed goes with it.
    while True:
        wanted = {name for node in nodes for name in node.input} | {o.name for o in graph.output}
        kept = [node for node in nodes if wanted & set(node.output)]
        if len(kept) == len(nodes):
            break
        nodes = kept
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    Path(sys.argv[2]).write_bytes((lighter if source.suffix == ".onnx" else convert)(source.read_bytes()))
