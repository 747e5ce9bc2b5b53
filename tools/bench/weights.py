"""Random weights of exactly R1-Omni's shapes, one file per peer, in the format the peer reads.

`python weights.py KIND FILE`, KIND one of gguf-q4_0, gguf-q8_0, onnx-vision, onnx-vision-1, onnx-audio, ctranslate2, whisper.cpp.
Time does not depend on the values, so all are windows of one short noise, each beginning elsewhere: tools that store equal tensors
once must find none. Their scale keeps activations finite through every layer.
"""

import itertools
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))

NOISE = (np.random.default_rng(1).standard_normal(1 << 22) * 0.02).astype(np.float32)
AUDIO = dict(layers=32, width=1280, ffn=5120, heads=20, mels=128, positions=1500)
DECODER = dict(layers=24, width=896, ffn=4864, heads=14, kv_heads=2, vocab=151936)
WHISPER_VOCAB = 51866


begins = itertools.count(step=997)


def noise(*shape):
    """Values around 0 with deviation 0.02; never the same ones twice."""
    return np.resize(np.roll(NOISE, -next(begins)), shape)


def gguf(path, kind):
    """The decoder for llama.cpp: every matrix of one type, the embedding (which is the head too) like the others."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
    d, kind = DECODER, GGMLQuantizationType[kind]
    kv = d["width"] // d["heads"] * d["kv_heads"]
    out = GGUFWriter(path, "qwen2")
    out.add_context_length(32768)
    out.add_embedding_length(d["width"])
    out.add_block_count(d["layers"])
    out.add_feed_forward_length(d["ffn"])
    out.add_head_count(d["heads"])
    out.add_head_count_kv(d["kv_heads"])
    out.add_rope_freq_base(1e6)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_vocab_size(d["vocab"])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([f"t{i}" for i in range(d["vocab"])])
    out.add_token_types([TokenType.NORMAL] * d["vocab"])
    out.add_token_merges(["a b"])
    out.add_eos_token_id(d["vocab"] - 1)
    out.add_add_bos_token(False)

    def vector(name, size, centre=0.0):
        out.add_tensor(name, centre + noise(size))

    def matrix(name, rows, cols):
        out.add_tensor(name, quants.quantize(noise(rows, cols), kind), raw_dtype=kind)

    matrix("token_embd.weight", d["vocab"], d["width"])
    vector("output_norm.weight", d["width"], 1.0)
    for i in range(d["layers"]):
        at = f"blk.{i}."
        vector(at + "attn_norm.weight", d["width"], 1.0)
        vector(at + "ffn_norm.weight", d["width"], 1.0)
        for name, rows in (("attn_q", d["width"]), ("attn_k", kv), ("attn_v", kv)):
            matrix(f"{at}{name}.weight", rows, d["width"])
            vector(f"{at}{name}.bias", rows)
        matrix(at + "attn_output.weight", d["width"], d["width"])
        matrix(at + "ffn_gate.weight", d["ffn"], d["width"])
        matrix(at + "ffn_up.weight", d["ffn"], d["width"])
        matrix(at + "ffn_down.weight", d["width"], d["ffn"])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def fill(module):
    """Noise in every parameter of a torch module; ones in the gains of norms."""
    import torch
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.from_numpy(noise(*p.shape)))
            if p.dim() == 1 and name.endswith("weight"):
                p += 1.0
    return module.eval()


def onnx_part(path, forward, module, *shape):
    """What `forward` does with a module of transformers, exported, then quantised by ONNX Runtime: int8, a scale per channel."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = fill(module)

        def forward(self, x):
            return forward(self.module, x)

    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        whole = os.path.join(folder, "float.onnx")
        with torch.inference_mode():
            torch.onnx.export(Part().eval(), (torch.zeros(shape),), whole, input_names=["x"], output_names=["y"], opset_version=17,
                              dynamo=False)
        quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
                         extra_options={"MatMulConstBOnly": True})


def onnx_vision(path, batch):
    """The vision tower: eleven layers, for upstream reads the last but one of twelve."""
    from transformers import SiglipVisionConfig, SiglipVisionModel
    config = SiglipVisionConfig(num_hidden_layers=11, vision_use_head=False)
    config._attn_implementation = "eager"
    onnx_part(path, lambda module, x: module(x).last_hidden_state, SiglipVisionModel(config), batch, 3, 224, 224)


def onnx_audio(path):
    """The audio tower, made in four parts of eight layers and joined: its export as a whole takes too much memory."""
    import onnx
    import torch.nn.functional as F
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder
    a, parts = AUDIO, 4
    config = WhisperConfig(num_mel_bins=a["mels"], d_model=a["width"], encoder_layers=a["layers"] // parts, decoder_layers=1,
                           encoder_attention_heads=a["heads"], encoder_ffn_dim=a["ffn"], max_source_positions=a["positions"])
    config._attn_implementation = "eager"
    joined = None
    for i in range(parts):
        def forward(module, x, i=i):
            if i == 0:
                x = F.gelu(module.conv2(F.gelu(module.conv1(x)))).transpose(1, 2) + module.embed_positions.weight
            for layer in module.layers:
                x = layer(x, None, None)[0]
            return module.layer_norm(x) if i == parts - 1 else x

        shape = (1, a["mels"], 2 * a["positions"]) if i == 0 else (1, a["positions"], a["width"])
        onnx_part(f"{path}.{i}", forward, WhisperEncoder(config), *shape)
        part = onnx.compose.add_prefix(onnx.load(f"{path}.{i}"), f"part{i}.")
        os.remove(f"{path}.{i}")
        joined = part if joined is None else onnx.compose.merge_models(joined, part, io_map=[(f"part{i - 1}.y", f"part{i}.x")])
    onnx.save(joined, path)


def ctranslate2(path):
    """The audio tower for CTranslate2, with a decoder of one layer that is never run."""
    from ctranslate2.specs import whisper_spec
    a = AUDIO
    width = a["width"]
    spec = whisper_spec.WhisperSpec(num_encoder_layers=a["layers"], num_encoder_heads=a["heads"], num_decoder_layers=1,
                                    num_decoder_heads=a["heads"])

    def linear(layer, rows, cols):
        layer.weight, layer.bias = noise(rows, cols), noise(rows)

    def norm(layer):
        layer.gamma, layer.beta = 1 + noise(width), noise(width)

    def ffn(layer):
        norm(layer.layer_norm)
        linear(layer.linear_0, a["ffn"], width)
        linear(layer.linear_1, width, a["ffn"])

    def attention(layer, *rows):
        norm(layer.layer_norm)
        for linear_layer, n in zip(layer.linear, rows):
            linear(linear_layer, n * width, width)

    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = noise(width, a["mels"], 3), noise(width)
    encoder.conv2.weight, encoder.conv2.bias = noise(width, width, 3), noise(width)
    encoder.position_encodings.encodings = noise(a["positions"], width)
    norm(encoder.layer_norm)
    for layer in encoder.layer:
        attention(layer.self_attention, 3, 1)
        ffn(layer.ffn)
    decoder.embeddings.weight = noise(WHISPER_VOCAB, width)
    decoder.projection.weight = noise(WHISPER_VOCAB, width)
    decoder.position_encodings.encodings = noise(448, width)
    decoder.scale_embeddings = False
    norm(decoder.layer_norm)
    for layer in decoder.layer:
        attention(layer.self_attention, 3, 1)
        attention(layer.attention, 1, 2, 1)
        ffn(layer.ffn)
    spec.register_vocabulary([f"t{i}" for i in range(WHISPER_VOCAB)])
    spec.config.suppress_ids = spec.config.suppress_ids_begin = spec.config.lang_ids = [1]
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.optimize(quantization="int8")
    os.makedirs(path)
    spec.save(path)


def whisper_cpp(path):
    """The audio tower for whisper.cpp as f16, with a decoder of one layer that is never run."""
    a = AUDIO
    width = a["width"]
    with open(path, "wb") as out:
        def ints(*values):
            out.write(struct.pack(f"<{len(values)}i", *values))

        def tensor(name, values, half=False):
            ints(values.ndim, len(name), int(half), *reversed(values.shape))
            out.write(name.encode())
            values.astype(np.float16 if half else np.float32).tofile(out)

        def linear(name, rows, cols, bias=True):
            tensor(name + ".weight", noise(rows, cols), True)
            if bias:
                tensor(name + ".bias", noise(rows))

        def norm(name):
            tensor(name + ".weight", 1 + noise(width))
            tensor(name + ".bias", noise(width))

        def attention(name):
            norm(name + "_ln")
            for part in ("query", "key", "value", "out"):
                linear(f"{name}.{part}", width, width, part != "key")

        def block(name, *attentions):
            for part in attentions:
                attention(f"{name}.{part}")
            norm(name + ".mlp_ln")
            linear(name + ".mlp.0", a["ffn"], width)
            linear(name + ".mlp.2", width, a["ffn"])

        ints(0x67676D6C, WHISPER_VOCAB, a["positions"], width, a["heads"], a["layers"], 448, width, a["heads"], 1, a["mels"], 1)
        ints(a["mels"], 201)
        np.abs(noise(a["mels"], 201)).tofile(out)
        ints(256)
        for byte in range(256):
            ints(1)
            out.write(bytes([byte]))
        tensor("encoder.positional_embedding", noise(a["positions"], width))
        for name, cols in (("conv1", a["mels"]), ("conv2", width)):
            tensor(f"encoder.{name}.weight", noise(width, cols, 3), True)
            tensor(f"encoder.{name}.bias", noise(width, 1))
        norm("encoder.ln_post")
        for i in range(a["layers"]):
            block(f"encoder.blocks.{i}", "attn")
        tensor("decoder.positional_embedding", noise(448, width))
        tensor("decoder.token_embedding.weight", noise(WHISPER_VOCAB, width), True)
        norm("decoder.ln")
        block("decoder.blocks.0", "attn", "cross_attn")


def make(kind, path):
    if kind.startswith("gguf-"):
        gguf(path, kind[5:].upper())
    elif kind == "onnx-audio":
        onnx_audio(path)
    elif kind in ("onnx-vision", "onnx-vision-1"):
        onnx_vision(path, 1 if kind.endswith("-1") else 8)
    elif kind == "ctranslate2":
        ctranslate2(path)
    elif kind == "whisper.cpp":
        whisper_cpp(path)
    else:
        sys.exit(f"error: no weights of kind {kind}")


if __name__ == "__main__":
    _, wanted, target = sys.argv
    make(wanted, target + ".part")
    os.rename(target + ".part", target)
