"""One peer as a program that does a step when it is told to and says how long it took.

In: a step a line, maybe with a number. Out: one JSON object a line: first what is ready, then `{"step", "ms", ...}`.
`python worker.py PEER [OPTION]...`; every peer runs with `--threads` threads. The clock runs around the peer's own call only.
"""

import argparse
import json
import sys
import time
from pathlib import Path

PROMPT, ROOM = 974, 1200        # positions of a prompt; of a context
IMAGES, IMAGE = 8, 224
MELS, COLUMNS = 128, 3000


class Peer:
    """A step `name` is the method `name`; it returns further facts, and may name its own time as `ms`."""

    def ready(self):
        return {}


class Llama(Peer):
    """llama.cpp through the C functions of llama-cpp-python: no sampling, logits of the last token only."""

    def __init__(self, args):
        import ctypes

        import llama_cpp as c
        self.c, self.silent = c, c.llama_log_callback(lambda *_: None)
        c.llama_log_set(self.silent, ctypes.c_void_p(0))
        c.llama_backend_init()
        begun = time.perf_counter()
        model = c.llama_model_load_from_file(args.weights.encode(), c.llama_model_default_params())
        if not model:
            sys.exit(f"error: llama.cpp cannot load {args.weights}")
        wanted = c.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = ROOM, ROOM, args.rows
        wanted.n_threads = wanted.n_threads_batch = args.threads
        wanted.flash_attn_type = int(args.flash_attention)
        self.context = c.llama_init_from_model(model, wanted)
        if not self.context:
            sys.exit("error: llama.cpp cannot make a context")
        self.load_ms = (time.perf_counter() - begun) * 1e3
        self.memory = c.llama_get_memory(self.context)
        self.tokens = (c.llama_token * PROMPT)(*((7919 * i + 13) % 150_000 for i in range(PROMPT)))

    def ready(self):
        system = self.c.llama_print_system_info().decode()
        return {"version": self.c.__version__, "load_ms": self.load_ms, "flags": system}

    def feed(self, count):
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(self.tokens, count)):
            sys.exit("error: llama.cpp cannot decode")
        self.c.llama_synchronize(self.context)

    def keep(self, positions):
        self.c.llama_memory_seq_rm(self.memory, 0, positions, -1)

    def prefill(self):
        self.keep(0)
        begun = time.perf_counter()
        self.feed(PROMPT)
        return {"ms": (time.perf_counter() - begun) * 1e3}

    def decode(self, count):
        self.keep(PROMPT)
        begun = time.perf_counter()
        for _ in range(count):
            self.feed(1)
        return {"ms": (time.perf_counter() - begun) * 1e3, "tokens": count}


class Onnx(Peer):
    """ONNX Runtime, every graph optimisation on."""

    def __init__(self, args):
        import numpy as np
        import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
        self.version = ort.__version__
        self.session = ort.InferenceSession(args.weights, options, providers=["CPUExecutionProvider"])
        self.input, shape = self.session.get_inputs()[0].name, self.session.get_inputs()[0].shape
        self.x = (np.random.default_rng(1).standard_normal(shape) * 0.5).astype(np.float32)
        self.calls = IMAGES // shape[0] if shape[1] == 3 else 1

    def ready(self):
        return {"version": self.version, "input": list(self.x.shape), "calls": self.calls}

    def run(self):
        for _ in range(self.calls):
            y = self.session.run(None, {self.input: self.x})[0]
        if not abs(float(y[0, 0, 0])) < 1e9:
            sys.exit("error: ONNX Runtime's answer is not finite")


class CTranslate2(Peer):
    """CTranslate2's Whisper encoder."""

    def __init__(self, args):
        import ctranslate2
        import numpy as np
        self.version, self.np = ctranslate2.__version__, np
        self.model = ctranslate2.models.Whisper(args.weights, device="cpu", compute_type=args.type, intra_threads=args.threads,
                                                inter_threads=1)
        mel = (np.random.default_rng(1).standard_normal((1, MELS, COLUMNS)) * 0.5).astype(np.float32)
        self.mel = ctranslate2.StorageView.from_array(mel)

    def ready(self):
        return {"version": self.version, "type": self.model.compute_type}

    def run(self):
        rows = self.np.array(self.model.encode(self.mel, to_cpu=True))
        if rows.shape != (1, COLUMNS // 2, 1280):
            sys.exit(f"error: CTranslate2 answered with {rows.shape}")


class Torch(Peer):
    """Upstream's stack: the same public modules in PyTorch, attention by `scaled_dot_product_attention`, last logits only."""

    def __init__(self, args):
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "train"))
        import torch
        import transformers
        from transformers.modeling_utils import no_init_weights

        import topology
        import weights
        self.torch, self.transformers = torch, transformers
        torch.set_num_threads(args.threads)
        kind = {"bf16": torch.bfloat16, "f32": torch.float32}[args.type]
        torch.set_default_dtype(kind)
        with no_init_weights():
            self.model = topology.Omni(topology.FULL)
        torch.set_default_dtype(torch.float32)
        weights.fill(self.model.to(kind))
        noise = torch.Generator().manual_seed(1)
        self.pixels = (torch.randn(1, IMAGES, 3, IMAGE, IMAGE, generator=noise) * 0.5).to(kind)
        self.mel = (torch.randn(1, MELS, COLUMNS, generator=noise) * 0.5).to(kind)
        self.seen = (torch.randn(1, IMAGES, 196, 768, generator=noise) * 0.5).to(kind)
        self.rows = (torch.randn(1, PROMPT, 896, generator=noise) * 0.02).to(kind)
        self.gates = torch.tensor([0.4, 0.35, 0.25]).to(kind)
        self.instruction = torch.arange(60)[None] + 1000
        self.cache = None

    def ready(self):
        return {"version": self.torch.__version__, "transformers": self.transformers.__version__,
                "type": str(self.rows.dtype).removeprefix("torch.")}

    def vision(self):
        self.model.see(self.pixels)

    def branches(self):
        (self.model.model.mm_projector(self.seen) * self.gates[None, :, None, None]).sum(dim=1)

    def gate(self):
        self.model.gate(self.instruction)

    def audio(self):
        self.model.model.audio_projector(self.model.hear(self.mel))

    def prefill(self):
        out = self.model(inputs_embeds=self.rows, use_cache=True, logits_to_keep=1)
        self.cache, self.next = out.past_key_values, out.logits[:, -1:].argmax(-1)

    def decode(self, count):
        if self.cache is None:
            self.prefill()
        self.cache.crop(PROMPT)
        token = self.next
        begun = time.perf_counter()
        for _ in range(count):
            out = self.model(input_ids=token, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
        return {"ms": (time.perf_counter() - begun) * 1e3, "tokens": count}


class WhisperCpp(Peer):
    """whisper.cpp's encoder through the C functions of pywhispercpp."""

    def __init__(self, args):
        from importlib.metadata import version

        import _pywhispercpp as c
        import numpy as np
        self.c, self.threads, self.version = c, args.threads, version("pywhispercpp")
        wanted = c.whisper_context_default_params()
        wanted.use_gpu, wanted.flash_attn = False, args.flash_attention
        self.context = c.whisper_init_from_file_with_params(args.weights, wanted)
        mel = (np.random.default_rng(1).standard_normal((MELS, COLUMNS)) * 0.5).astype(np.float32)
        if c.whisper_set_mel(self.context, mel, COLUMNS, MELS):
            sys.exit("error: whisper.cpp refuses the mel")

    def ready(self):
        return {"version": self.version}

    def run(self):
        if self.c.whisper_encode(self.context, 0, self.threads):
            sys.exit("error: whisper.cpp cannot encode")


PEERS = {"llama": Llama, "onnx": Onnx, "ctranslate2": CTranslate2, "torch": Torch, "whisper.cpp": WhisperCpp}


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("peer", choices=PEERS)
    ask.add_argument("--weights", help="what weights.py made")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--type", help="torch: bf16 or f32; CTranslate2: its compute type")
    ask.add_argument("--rows", type=int, default=512, help="llama.cpp: rows of a prompt at once")
    ask.add_argument("--flash-attention", action="store_true", help="llama.cpp and whisper.cpp")
    args = ask.parse_args()
    told = sys.stdout
    sys.stdout = sys.stderr         # what libraries print must not stand between the answers

    def tell(**facts):
        print(json.dumps(facts), file=told, flush=True)

    peer = PEERS[args.peer](args)
    tell(ready=args.peer, **peer.ready())
    if args.peer == "torch":
        peer.torch.inference_mode().__enter__()
    for line in sys.stdin:
        step, *numbers = line.split()
        begun = time.perf_counter()
        facts = getattr(peer, step)(*map(int, numbers)) or {}
        ms = (time.perf_counter() - begun) * 1e3
        tell(**{"step": step, "ms": ms, **facts})


if __name__ == "__main__":
    main()
