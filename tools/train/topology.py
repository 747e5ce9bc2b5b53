"""The R1-Omni topology in torch, at any size, with the parameter names of the published checkpoint.

SigLIP's patches (all layers but the last), Whisper's encoder, three visual branches mixed by a gate that reads the instruction
with BERT, and a Qwen2 decoder into which visual and audio rows are spliced.

Shapes: pixels `(clips, frames, 3, image, image)`, mel `(clips, 128, 2 * positions)`, visual rows `(clips, frames * grid^2 / 4,
hidden)`, audio rows `(clips, positions / 3, hidden)`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn
from transformers import (BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel,
                          WhisperConfig)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

GATE_HIDDEN = 3584      # a constant of the architecture
BRANCHES = ("video", "body", "face")
POOL = 3                # audio rows averaged into one


@dataclass(frozen=True)
class Sizes:
    """Every size of a model. The defaults are the small bundle's; `FULL` is the published one."""

    hidden: int = 128
    ffn: int = 352
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 704
    base_vocab: int = 688           # before the special tokens
    vision_hidden: int = 96
    vision_ffn: int = 288
    vision_layers: int = 5          # the last is stored and never run
    vision_heads: int = 3
    image: int = 128
    patch: int = 16
    frames: int = 8
    audio_hidden: int = 96
    audio_ffn: int = 288
    audio_layers: int = 4
    audio_heads: int = 3
    mels: int = 128
    positions: int = 200            # 4 s; the published tower hears 30 s
    bert_hidden: int = 32
    bert_ffn: int = 64
    bert_layers: int = 1
    bert_heads: int = 2
    bert_vocab: int = 0             # 0: as many as the word list has

    @property
    def grid(self):
        return self.image // self.patch

    @property
    def visual_rows(self):
        return self.frames * (self.grid // 2) ** 2

    @property
    def audio_rows(self):
        return self.positions // POOL

    def forward_gflop(self, text=110):
        """Floor of one forward pass of a clip: multiply-adds of the matrix products, counted as two."""
        v, patches = self.vision_hidden, self.grid**2
        vision = self.frames * patches * (2 * 3 * self.patch**2 * v + (self.vision_layers - 1) * (
            8 * v * v + 4 * v * self.vision_ffn + 4 * patches * v))
        a, n = self.audio_hidden, self.positions
        audio = n * (2 * 2 * self.mels * 3 * a + 2 * a * 3 * a + self.audio_layers * (8 * a * a + 4 * a * self.audio_ffn + 4 * n * a))
        h = self.hidden
        s1 = self.frames * patches * 2 * (2 * v * h + 4 * h * h)
        s2 = self.visual_rows * 2 * (8 * h * h + 4 * h * h + 2 * h * h)
        fusion = 2 * (s1 + s2) + self.frames * patches * 2 * (v * h + h * h) + self.audio_rows * 2 * (a * h + h * h)
        rows = self.visual_rows + self.audio_rows + text
        kv = h * self.kv_heads // self.heads
        decoder = rows * self.layers * (2 * (2 * h * h + 2 * h * kv + 3 * h * self.ffn) + 2 * rows * h) + 2 * text * h * self.vocab
        return {k: x / 1e9 for k, x in (("vision", vision), ("audio", audio), ("fusion", fusion), ("decoder", decoder))}


SMALL = Sizes()
SMOKE = replace(SMALL, hidden=64, ffn=128, layers=2, vision_hidden=32, vision_ffn=64, vision_layers=2, image=64, audio_hidden=32,
                audio_ffn=64, audio_layers=1, heads=2, kv_heads=1, vision_heads=2, audio_heads=2)
FULL = Sizes(hidden=896, ffn=4864, layers=24, heads=14, kv_heads=2, vocab=151936, base_vocab=151643, vision_hidden=768,
             vision_ffn=3072, vision_layers=12, vision_heads=12, image=224, audio_hidden=1280, audio_ffn=5120, audio_layers=32,
             audio_heads=20, positions=1500, bert_hidden=768, bert_ffn=3072, bert_layers=12, bert_heads=12, bert_vocab=30522)


def _mlp(inside, middle, outside):
    return nn.Sequential(nn.Linear(inside, middle), nn.GELU(), nn.Linear(middle, outside))


class Projector(nn.Module):
    """Vision rows to decoder rows: the video, body and face branches."""

    def __init__(self, sizes):
        super().__init__()
        if sizes.vision_hidden == sizes.hidden:
            raise ValueError(f"vision and decoder are both {sizes.hidden} wide: the first block would have no shortcut convolution")
        self.sizes = sizes
        h = sizes.hidden
        for name in ("video", "body"):
            for stage, inside in (("s1", sizes.vision_hidden), ("s2", h)):
                self.add_module(f"{stage}_{name}", RegStage(depth=2, in_chs=inside, out_chs=h, stride=1, dilation=1,
                                                            act_layer=nn.SiLU, norm_layer=LayerNorm2d))
            self.add_module(f"sampler_{name}", nn.Sequential(nn.Conv3d(h, h, 2, (1, 2, 2), (1, 0, 0)), nn.SiLU()))
            self.add_module(f"readout_{name}", _mlp(h, h, h))
        self.mlp_2xgelu_face = _mlp(sizes.vision_hidden, h, h)

    def forward(self, seen):
        """`(clips, frames, patches, vision hidden)` to `(clips, 3, visual rows, hidden)`."""
        clips, frames, patches, width = seen.shape
        g = self.sizes.grid
        grid = seen.reshape(clips * frames, g, g, width).permute(0, 3, 1, 2)
        out = []
        for name in ("video", "body"):
            x = getattr(self, f"s1_{name}")(grid)
            x = x.reshape(clips, frames, *x.shape[1:]).transpose(1, 2)
            x = getattr(self, f"sampler_{name}")(x)[:, :, :-1]
            x = getattr(self, f"s2_{name}")(x.transpose(1, 2).flatten(0, 1))
            x = x.flatten(2).transpose(1, 2).reshape(clips, -1, x.shape[1])
            out.append(getattr(self, f"readout_{name}")(x))
        x = self.mlp_2xgelu_face(seen).reshape(clips * frames, g, g, -1).permute(0, 3, 1, 2)
        x = F.interpolate(x, size=(-(-g // 2), -(-g // 2)), mode="bilinear", align_corners=False)
        out.append(x.flatten(2).transpose(1, 2).reshape(clips, -1, x.shape[1]))
        return torch.stack(out, dim=1)


class Omni(Qwen2ForCausalLM):
    """The whole model. `model.*` names are the published ones; the head is tied to the embedding."""

    def __init__(self, sizes, **decoder):
        config = Qwen2Config(
            hidden_size=sizes.hidden, intermediate_size=sizes.ffn, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads, vocab_size=sizes.vocab, max_window_layers=sizes.layers, rms_norm_eps=1e-6,
            rope_theta=1e6, max_position_embeddings=32768, tie_word_embeddings=True, use_sliding_window=False, **decoder)
        super().__init__(config)
        self.sizes = sizes
        vision = SiglipVisionConfig(
            hidden_size=sizes.vision_hidden, intermediate_size=sizes.vision_ffn, num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads, image_size=sizes.image, patch_size=sizes.patch)
        audio = WhisperConfig(
            d_model=sizes.audio_hidden, encoder_layers=sizes.audio_layers, encoder_attention_heads=sizes.audio_heads,
            encoder_ffn_dim=sizes.audio_ffn, num_mel_bins=sizes.mels, max_source_positions=sizes.positions,
            activation_function="gelu", dropout=0.0)
        bert = BertConfig(
            hidden_size=sizes.bert_hidden, intermediate_size=sizes.bert_ffn, num_hidden_layers=sizes.bert_layers,
            num_attention_heads=sizes.bert_heads, vocab_size=sizes.bert_vocab, max_position_embeddings=512,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.model.vision_tower = nn.ModuleDict({"vision_tower": SiglipVisionModel(vision)})
        audio_tower = nn.ModuleDict({"encoder": WhisperEncoder(audio)})
        self.model.audio_tower = nn.ModuleDict({"audio_tower": audio_tower})
        self.model.mm_projector = Projector(sizes)
        self.model.audio_projector = _mlp(sizes.audio_hidden, sizes.hidden, sizes.hidden)
        self.model.bert_model = BertModel(bert)
        self.model.bert_gate = _mlp(sizes.bert_hidden, GATE_HIDDEN, len(BRANCHES))

    @property
    def vision(self):
        return self.model.vision_tower["vision_tower"]

    @property
    def audio(self):
        return self.model.audio_tower["audio_tower"]["encoder"]

    def see(self, pixels):
        """The rows of the last layer but one: `(clips, frames, patches, vision hidden)`."""
        clips, frames = pixels.shape[:2]
        tower = self.vision.vision_model
        x = tower.embeddings(pixels.flatten(0, 1))
        for layer in tower.encoder.layers[:-1]:
            x = layer(x, None)[0]
        return x.reshape(clips, frames, *x.shape[1:])

    def hear(self, mel, averaged=True):
        """Encoder rows: `(clips, audio rows, audio hidden)`, averaged by threes. A shorter mel is heard without the padding."""
        tower = self.audio
        x = F.gelu(tower.conv2(F.gelu(tower.conv1(mel)))).transpose(1, 2)
        x = x + tower.embed_positions.weight[: x.shape[1]]
        for layer in tower.layers:
            x = layer(x, None, None)[0]
        x = tower.layer_norm(x)
        return F.avg_pool1d(x.transpose(1, 2), POOL).transpose(1, 2) if averaged else x

    def gate(self, bert_ids):
        """Weights of the branches for an instruction `(1, ids)`."""
        first = self.model.bert_model(input_ids=bert_ids).last_hidden_state[:, 0]
        return torch.softmax(self.model.bert_gate(first), dim=1)[0]

    def rows(self, seen, heard, gate):
        """Decoder rows of a clip's features; either may be None."""
        visual = None if seen is None else (self.model.mm_projector(seen) * gate[None, :, None, None]).sum(dim=1)
        return visual, None if heard is None else self.model.audio_projector(heard)

    def splice(self, pieces, visual, audio):
        """Input rows of one prompt: `pieces` are lists of token ids or the words `video`, `audio`."""
        table, parts = self.model.embed_tokens, []
        for piece in pieces:
            if piece == "video":
                parts.append(visual)
            elif piece == "audio":
                parts.append(audio)
            else:
                ids = torch.tensor(piece, device=table.weight.device)
                parts.append(table(ids)[None].expand(len(visual if visual is not None else audio), -1, -1))
        return torch.cat(parts, dim=1)
