"""The model, its checkpoints and its trainers, at a size that a test can afford."""

import dataclasses
import json
import math
import subprocess
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import checkpoint
import claims
import contest as contest_module
import data
import evaluate
import grpo
import media
import recipe
import rewards
import scores
import sft
import shards
import text
import topology
import trainer
from world import clip, rule

TINY = dataclasses.replace(topology.SMOKE, hidden=32, ffn=48, heads=2, kv_heads=1, vision_hidden=16, vision_heads=1, image=64,
                           audio_hidden=32, audio_heads=1, positions=60)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    checkpoint.create(out, TINY, seed=1)
    return out


@pytest.fixture()
def model(root):
    return checkpoint.load(root)


@pytest.fixture(scope="module")
def words(root):
    return checkpoint.Words(root)


@pytest.fixture(scope="module")
def lines():
    out = []
    for i in range(12):
        p = clip.plan(3, "train", i)
        out.append(clip.truth(p, 0.2, 1.0, "x.avi"))
    return out


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return data.Features(rng.standard_normal((12, 8, 16, 16)).astype(np.float16), rng.standard_normal((12, 20, 32)).astype(np.float16))


# --- checkpoints ------------------------------------------------------------------------------------------------------
def test_a_checkpoint_is_read_back_as_it_was(root, model, tmp_path):
    checkpoint.save(model, tmp_path, root)
    again = checkpoint.load(tmp_path)
    assert again.sizes == model.sizes
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name
    assert (tmp_path / checkpoint.OMNI / "tokenizer.json").read_bytes() == (root / checkpoint.OMNI / "tokenizer.json").read_bytes()


def test_names_and_shapes_are_the_published_ones(root):
    held = checkpoint._Tensors(root / checkpoint.OMNI)
    shape = lambda name: list(held.shape(name))
    h, v, r = TINY.hidden, TINY.vision_hidden, round(0.25 * TINY.vision_hidden)
    assert shape("model.embed_tokens.weight") == [TINY.vocab, h] and "lm_head.weight" not in held.where
    assert shape("model.layers.1.self_attn.k_proj.bias") == [h // 2]
    assert shape("model.mm_projector.s1_video.b1.conv1.conv.weight") == [h, v, 1, 1]
    assert shape("model.mm_projector.s1_body.b1.downsample.conv.weight") == [h, v, 1, 1]
    assert shape("model.mm_projector.s1_video.b1.se.fc1.weight") == [r, h, 1, 1]
    assert shape("model.mm_projector.s2_video.b2.conv2.conv.weight") == [h, 1, 3, 3]
    assert shape("model.mm_projector.sampler_body.0.weight") == [h, h, 2, 2, 2]
    assert shape("model.mm_projector.readout_video.2.weight") == [h, h]
    assert shape("model.mm_projector.mlp_2xgelu_face.0.weight") == [h, v]
    assert shape("model.bert_gate.0.weight") == [3584, TINY.bert_hidden] and shape("model.bert_gate.2.weight") == [3, 3584]
    assert shape("model.audio_projector.0.weight") == [h, TINY.audio_hidden]
    assert shape("model.audio_tower.audio_tower.encoder.conv1.weight") == [TINY.audio_hidden, 128, 3]
    assert shape("model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight") == [16, v]
    assert "model.audio_tower.audio_tower.encoder.layers.0.self_attn.k_proj.bias" not in held.where
    assert "model.bert_model.embeddings.word_embeddings.weight" in held.where
    beside = checkpoint._Tensors(root / checkpoint.WHISPER).where
    assert "model.encoder.layer_norm.weight" in beside
    assert "vision_model.embeddings.patch_embedding.weight" in checkpoint._Tensors(root / checkpoint.SIGLIP).where


def test_towers_come_from_beside_or_from_the_copies(root, model, tmp_path):
    checkpoint.save(model, tmp_path, root, dtype=torch.bfloat16)
    (tmp_path / checkpoint.SIGLIP / "model.safetensors").unlink()
    again = checkpoint.load(tmp_path)
    name = "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
    assert torch.equal(again.state_dict()[name], model.state_dict()[name].bfloat16().float())


def test_what_is_missing_is_named(root, model, tmp_path):
    with pytest.raises(FileNotFoundError, match="R1-Omni-0.5B"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path, root)
    state = {k: v for k, v in model.state_dict().items() if "audio_projector.2.bias" not in k and k != "lm_head.weight"}
    checkpoint._save_tensors(tmp_path / checkpoint.OMNI, {k: v.contiguous() for k, v in state.items()})
    with pytest.raises(KeyError, match="audio_projector.2.bias"):
        checkpoint.load(tmp_path)


def test_sizes_of_the_real_model_make_its_tensors():
    with torch.device("meta"):
        state = topology.Omni(topology.FULL).state_dict()
    count = lambda prefix: sum(v.numel() for k, v in state.items() if k.startswith(prefix))
    assert state["model.mm_projector.s1_video.b1.se.fc1.weight"].shape == (192, 896, 1, 1)
    assert state["model.mm_projector.s1_video.b2.se.fc1.weight"].shape == (224, 896, 1, 1)
    assert abs(count("model.layers.") / 1e6 - 357.9) < 0.1
    assert abs(count("model.audio_tower.") / 1e6 - 637.0) < 0.1
    assert topology.FULL.visual_rows == 392 and topology.FULL.audio_rows == 500


# --- texts ------------------------------------------------------------------------------------------------------------
def test_prompts_are_the_published_text():
    assert "".join(f"<{p}>" if p in ("video", "audio") else p for p in text.prompt("Q?")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<vi_start><video><vi_end>\n"
        "<au_start><audio><au_end>\nQ?<|im_end|>\n<|im_start|>assistant\n")
    assert "".join(text.prompt("Q?", video=False)).count("vi_start") == 0
    with pytest.raises(ValueError):
        text.prompt("Q?", video=False, audio=False)


def test_the_chat_template_renders_the_prompt(root):
    from jinja2 import Template
    template = json.loads((root / checkpoint.OMNI / "tokenizer_config.json").read_text())["chat_template"]
    got = Template(template).render(messages=[{"role": "user", "content": "C"}], add_generation_prompt=True)
    assert got == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_round_trip_and_tags_stand_alone(words, lines):
    for line in lines:
        said = text.faithful(line["cues"], line["label"])
        assert words.text(words.ids(said)) == said
        assert rewards.format_reward(said) == 1 and rewards.accuracy_reward(said, line["label"]) == 1
        ids = words.ids(said)
        think = words.ids("<think>")
        close = words.ids("</think>\n")
        assert ids[: len(think)] == think
        assert any(ids[i:i + len(close)] == close for i in range(len(ids)))
    for label in rule.LABELS:
        assert len(words.ids(f"<answer>{label}</answer>")) < 8
    assert words.text([words.end]) == "" and words.ids("a<|im_end|>")[-1] == words.end


# --- the model --------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_towers_are_what_transformers_computes(model):
    model.eval()
    px, mel = torch.randn(2, 8, 3, 64, 64), torch.randn(2, 128, 120)
    whole = model.vision(px.flatten(0, 1), output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(model.see(px), whole.reshape(2, 8, 16, -1), atol=1e-5)
    whole = F.avg_pool1d(model.audio(mel).last_hidden_state.transpose(1, 2), 3).transpose(1, 2)
    assert torch.allclose(model.hear(mel), whole, atol=1e-5)
    assert model.hear(mel[:, :, :60]).shape == (2, 10, 32)


@torch.no_grad()
def test_the_face_branch_is_the_mean_of_four_patches(model):
    seen = torch.randn(1, 8, 16, 16)
    face = model.model.mm_projector(seen)[0, 2]
    mlp = model.model.mm_projector.mlp_2xgelu_face(seen)[0].reshape(8, 4, 4, -1)
    want = mlp.reshape(8, 2, 2, 2, 2, -1).mean(dim=(2, 4)).reshape(32, -1)
    assert torch.allclose(face, want, atol=1e-5)


@torch.no_grad()
def test_the_sampler_sees_this_frame_and_the_one_before(model):
    seen = torch.randn(1, 8, 16, 16)
    other = seen.clone()
    other[0, 5] += 1
    apart = (model.model.mm_projector(seen) - model.model.mm_projector(other))[0].abs().amax(dim=2).reshape(3, 8, 4).amax(dim=2) > 1e-6
    assert apart[0].tolist() == apart[1].tolist() == [i in (5, 6) for i in range(8)]
    assert apart[2].tolist() == [i == 5 for i in range(8)]


def test_frames_are_chosen_as_upstream_does():
    assert media.chosen(8, 8).tolist() == list(range(8))
    assert media.chosen(9, 8).tolist() == list(range(1, 9))
    assert media.chosen(30, 8).tolist() == [2, 5, 9, 13, 16, 20, 24, 27]
    assert media.chosen(75, 8).tolist() == [5, 14, 23, 32, 42, 51, 60, 69]
    assert media.chosen(1, 8).tolist() == [0] * 8


# --- supervised -------------------------------------------------------------------------------------------------------
def settle(folder, steps, every=2, stop_after=None, rate=1e-3):
    return trainer.Loop(folder, trainer.Settings(steps, rate, every, stop_after=stop_after), "test")


def fit(root, words, lines, features, folder, steps, **more):
    model = checkpoint.load(root)
    sft.trainable(model)
    loop = settle(folder, steps, **more)
    sft.train(loop, model, words, lines, features, {"reason": 0.5, "label": 0.5}, 7, 4)
    return model, [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]


def test_a_batch_is_as_good_as_its_examples_one_by_one(model, words, lines, features):
    model.eval()
    loss = sft.Loss(model, words)
    some = [data.example(i, lines[i], "reason") for i in (0, 4, 5)]
    lengths = [len(words.ids(e.target)) + 1 for e in some]
    assert len(set(lengths)) > 1
    alone = sum(float(loss([e], features)) * n for e, n in zip(some, lengths)) / sum(lengths)
    assert float(loss(some, features)) == pytest.approx(alone, rel=1e-4)


def test_loss_falls_and_towers_stay(root, words, lines, features, tmp_path):
    model, log = fit(root, words, lines, features, tmp_path, 40, every=40, rate=3e-3)
    assert np.mean([x["loss"] for x in log[-5:]]) < 0.7 * np.mean([x["loss"] for x in log[:5]])
    before = checkpoint.load(root).state_dict()
    for name, value in model.state_dict().items():
        if "tower" in name:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(model.model.audio_projector[0].weight, before["model.audio_projector.0.weight"])


def test_killed_and_resumed_ends_where_it_would_have_ended(root, words, lines, features, tmp_path):
    whole, log = fit(root, words, lines, features, tmp_path / "a", 6)
    fit(root, words, lines, features, tmp_path / "b", 6, stop_after=5)          # a checkpoint at 4, one step lost
    resumed, again = fit(root, words, lines, features, tmp_path / "b", 6)
    assert [x["step"] for x in again] == list(range(6))
    assert [x["loss"] for x in again] == pytest.approx([x["loss"] for x in log], rel=1e-5)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name


def test_products_are_in_bf16_only_where_the_processor_has_it(monkeypatch):
    for has, mixed, made in ((True, "bf16", "bf16"), (False, "bf16", "no"), (True, "no", "no")):
        monkeypatch.setattr(trainer, "has_bf16", lambda: has)
        assert trainer.Settings(1, 1e-3, mixed=mixed).products == made


def test_a_kill_between_two_renames_loses_nothing(root, words, lines, features, tmp_path):
    fit(root, words, lines, features, tmp_path, 4, stop_after=2)
    (tmp_path / "state").rename(tmp_path / "state.old")
    _, log = fit(root, words, lines, features, tmp_path, 4)
    assert [x["step"] for x in log] == list(range(4))


# --- data -------------------------------------------------------------------------------------------------------------
def test_bad_manifest_lines_are_named_and_counted(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"")
    rows = [{"id": "1", "clip": "a.avi", "label": "happiness"}, {"id": "1", "clip": "a.avi", "label": "sad"},
            {"id": "2", "clip": "b.avi", "label": "sad"}, {"id": "3", "clip": "a.avi", "label": "hungry"}, {"id": "4", "label": "sad"}]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "{oops\n")
    with pytest.raises(data.ManifestError, match="5 bad lines") as said:
        data.manifest(path)
    for part in ("there twice", "no file", "hungry", "line 5: no clip", "line 6: not JSON"):
        assert part in str(said.value)
    lines, wrong = data.manifest(path, strict=False)
    assert [x["label"] for x in lines] == ["happy"] and len(wrong) == 5
    with pytest.raises(data.ManifestError, match="no manifest"):
        data.manifest(tmp_path / "none.jsonl")


def test_a_muted_example_asks_for_what_remains(lines):
    line = next(x for x in lines if x["cell"]["face"] and x["cell"]["voice"] and x["cell"]["words"])
    e = data.example(0, line, "reason", audio=False)
    assert e.label == rule.decide(line["cell"]["face"], None, None)
    assert {c["modality"] for c in e.cues} == {"face"}
    assert "no voice" in e.target and "no words" in e.target
    assert rewards.cue_reward(e.target, e.cues) == 1
    spoken = text.faithful(line["cues"], line["label"])
    assert rewards.cue_reward(spoken, e.cues) < 0


def test_a_line_without_cues_teaches_its_own_reason_or_nothing(model, words, features):
    line = {"id": "1", "clip": "x", "label": "sad", "reason": " He looks down. "}
    assert data.example(0, line, "reason").target == "<think> He looks down.</think>\n<answer>sad</answer>"
    assert data.example(0, line, "label").target == "<answer>sad</answer>"
    with pytest.raises(data.ManifestError, match="line 1 first.*`cues`"):
        sft.Loss(model, words)([data.example(0, line, "describe")], features)
    e = data.example(0, line, "reason")
    assert grpo.judged(POLICY, words, e, words.ids(e.target) + [words.end])[0]["cues"] == 0.0


def test_steps_are_drawn_again_the_same_and_epochs_see_every_clip(lines):
    draw = lambda n: data.draw(lines, {"reason": 1.0}, n, 5, 4)
    assert draw(3) == draw(3)
    assert sorted(e.row for n in range(3) for e in draw(n)) == list(range(12))
    assert sorted(data.share(7, 0, 3) + data.share(7, 1, 3) + data.share(7, 2, 3)) == list(range(7))
    with pytest.raises(data.ManifestError, match="4 clips cannot be shared by 5"):
        data.share(4, 0, 5)


def test_clips_in_tar_files_are_the_clips(tmp_path):
    names = ["avi/a.avi", "b.mkv"]
    (tmp_path / "avi").mkdir()
    plan = clip.plan(3, "train", 0)
    (tmp_path / names[0]).write_bytes(clip.render(plan)[0])
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=64x48:r=5", "-f", "lavfi", "-i", "sine=d=1", str(tmp_path / names[1])], check=True)
    lines = [{"id": f"x.{i}", "clip": name, "label": "happy"} for i, name in enumerate(names)]
    source = tmp_path / "own.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed = shards.write(source, tmp_path / "packed", 1)
    found, _ = data.manifest(packed)
    assert [line["clip"] for line in found] == ["own-000000.tar/00000000.avi", "own-000001.tar/00000001.mkv"]
    for name, line in zip(names, found):
        (pictures, sound), (own, heard) = (media.read(p) for p in (tmp_path / name, packed.parent / line["clip"]))
        assert len(own) == len(pictures) > 0 and all(a.tobytes() == b.tobytes() for a, b in zip(own, pictures))
        assert np.array_equal(heard, sound) and len(sound)
    with tarfile.open(packed.parent / "own-000001.tar") as tar:
        assert json.load(tar.extractfile("00000001.json")) == lines[1]
    packed.write_text(json.dumps({**found[0], "clip": "own-000000.tar/00000007.avi"}) + "\n")
    with pytest.raises(data.ManifestError, match="own-000000.tar/00000007.avi"):
        data.manifest(packed)
    (packed.parent / "cut.tar").write_bytes(b"no tar")
    packed.write_text(json.dumps({**found[0], "clip": "cut.tar/00000000.avi"}) + "\n")
    with pytest.raises(ValueError, match="cut.tar is no whole tar file"):
        data.manifest(packed)
    source.write_text(json.dumps({**lines[0], "clip": "gone.avi"}) + "\n")
    with pytest.raises(FileNotFoundError, match="gone.avi"):
        shards.write(source, tmp_path / "again")


# --- grpo -------------------------------------------------------------------------------------------------------------
POLICY = grpo.Policy(group=3, prompts=2, max_new=10, drop=0.0, label_share=0.0)


def drawn(model, words, lines, features, seed=1):
    some = [data.example(i, lines[i], "reason") for i in (0, 1)]
    return some, grpo.sample(model, words, some, features, 3, 10, 1.0, seed)


def test_drawing_is_seeded_and_ends_at_the_end(model, words, lines, features):
    model.eval()
    some, ids = drawn(model, words, lines, features)
    assert len(ids) == 6 and ids == drawn(model, words, lines, features)[1] != drawn(model, words, lines, features, 2)[1]
    assert all(words.end not in row[:-1] and 1 <= len(row) <= 10 for row in ids)


@torch.no_grad()
def test_greedy_answers_are_those_of_a_plain_loop(model, words, lines, features):
    model.eval()
    some = [data.example(0, lines[0], "reason")]
    got = grpo.sample(model, words, some, features, 1, 6, 0.0, 0)[0]
    seen, heard = features.batch([0])
    rows = model.splice(words.pieces(text.REASON), *model.rows(seen, heard, model.gate(words.bert_ids(text.REASON))))
    want = []
    while len(want) < 6 and words.end not in want:
        more = model.model.embed_tokens(torch.tensor([want], dtype=torch.long)) if want else rows[:, :0]
        want.append(int(model(inputs_embeds=torch.cat([rows, more], dim=1)).logits[0, -1].argmax()))
    assert got == want


def test_the_shared_prompt_changes_neither_probabilities_nor_gradients(model, words, lines, features):
    model.eval()
    some, ids = drawn(model, words, lines, features)
    grads = []
    for shared in (True, False):
        model.zero_grad()
        if shared:
            logps, real = grpo.answer_logps(model, *grpo.prefix(model, words, some, features), ids, 3, 1.0)
        else:
            seen, heard = features.batch([0, 0, 0, 1, 1, 1])
            prompt = model.splice(words.pieces(text.REASON), *model.rows(seen, heard, model.gate(words.bert_ids(text.REASON))))
            longest = max(map(len, ids))
            tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
            out = model(inputs_embeds=torch.cat([prompt, model.model.embed_tokens(tokens[:, :-1])], dim=1), logits_to_keep=longest).logits
            logps = torch.log_softmax(out, dim=2).gather(2, tokens[..., None])[..., 0]
        (logps * real).sum().backward()
        grads.append((logps.detach() * real, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-4)
    assert grads[0][1].keys() == grads[1][1].keys() and any("mm_projector" in n for n in grads[0][1])
    for name, g in grads[0][1].items():
        assert torch.allclose(g, grads[1][1][name], atol=2e-3 * float(g.abs().max()) + 1e-5), name


def test_clipping_and_kl_by_hand():
    p = dataclasses.replace(POLICY, beta=0.5)
    logps, old = torch.log(torch.tensor([[0.5, 0.6, 0.2]])), torch.log(torch.tensor([[0.5, 0.3, 0.4]]))
    loss, kl = grpo.token_losses(p, logps, old, logps, torch.tensor([1.0]))
    assert kl.abs().max() < 1e-6
    assert loss[0].tolist() == pytest.approx([-1.0, -1.28, -0.5], abs=1e-5)          # the gain is cut at 1.28, the fall is not
    loss, _ = grpo.token_losses(p, logps, old, None, torch.tensor([-1.0]))
    assert loss[0].tolist() == pytest.approx([1.0, 2.0, 0.8], abs=1e-5)
    _, kl = grpo.token_losses(p, logps, old, old, torch.tensor([0.0]))
    assert kl[0].tolist() == pytest.approx([0.0, np.exp(np.log(0.5)) - np.log(0.5) - 1, np.exp(np.log(2)) - np.log(2) - 1], abs=1e-5)


def test_the_ratio_of_a_whole_answer_is_its_mean_and_each_token_keeps_its_gradient():
    p = dataclasses.replace(POLICY, ratio="sequence")
    old = torch.log(torch.tensor([[0.5, 0.4, 0.9]]))
    logps = torch.log(torch.tensor([[0.5, 0.576, 0.1]])).requires_grad_()
    real = torch.tensor([[1.0, 1.0, 0.0]])
    loss, _ = grpo.token_losses(p, logps, old, None, torch.tensor([1.0]), real)
    # Two real tokens: the root of 1 and 1.44 is 1.2, within the bounds.
    assert loss[0, :2].tolist() == pytest.approx([-1.2, -1.2], abs=1e-5)
    loss[0, 0].backward()
    assert logps.grad[0].tolist() == pytest.approx([-1.2, 0.0, 0.0], abs=1e-5)
    far = torch.log(torch.tensor([[0.9, 0.9, 0.1]]))
    loss, _ = grpo.token_losses(p, far, old, None, torch.tensor([1.0]), real)
    assert loss[0, :2].tolist() == pytest.approx([-1.28, -1.28], abs=1e-5)


def test_brier_by_hand_and_its_gradient_reaches_what_is_trained(model, words, lines, features):
    some = [data.example(i, lines[i], "label") for i in (0, 1)]
    told = torch.full((2, 7), 0.05)
    told[0, rule.LABELS.index("sad")], told[1, 3] = 0.7, 0.7
    pair = [dataclasses.replace(some[0], label="sad"), dataclasses.replace(some[1], label="unknown")]
    want = ((0.3**2 + 6 * 0.05**2) + ((0.7 - 1 / 7) ** 2 + 6 * (0.05 - 1 / 7) ** 2)) / 2
    assert float(scores.brier(told, pair)) == pytest.approx(want, abs=1e-5)
    alone, both = (sft.Loss(model, words, weight)(some, features) for weight in (0.0, 2.0))
    likely = scores.of_labels(model, words, some, features)
    assert float(both - alone) == pytest.approx(2 * float(scores.brier(likely, some)), abs=1e-4)
    model.zero_grad()
    scores.brier(likely, some).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "mm_projector" in n)
    model.zero_grad()


def test_reductions_by_hand():
    losses, real = torch.tensor([[1.0, 1.0, 4.0], [6.0, 9.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    value = lambda kind: float(grpo.reduced(dataclasses.replace(POLICY, loss=kind), losses, real))
    assert value("grpo") == pytest.approx((2 + 6) / 2)
    assert value("dapo") == pytest.approx(12 / 4)
    assert value("dr_grpo") == pytest.approx(12 / (2 * 10))
    with pytest.raises(ValueError, match="ppo"):
        value("ppo")


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_a_step_makes_good_answers_likelier(model, words, lines, features, kind):
    model.eval()
    policy = dataclasses.replace(POLICY, loss=kind)
    some, ids = drawn(model, words, lines, features)
    ids = [row + [5 + i] for i, row in enumerate(ids)]
    gained = torch.tensor([1.0, 0, -1.0, 1.0, 0, -1.0])
    total = lambda: grpo.answer_logps(model, *grpo.prefix(model, words, some, features), ids, 3, 1.0)
    with torch.no_grad():
        before = (total()[0] * total()[1]).sum(dim=1)
    optimizer = torch.optim.SGD(sft.trainable(model), lr=0.05)
    loss = grpo.Loss(model, words, policy)
    for _ in range(3):
        value, _, _ = loss(some, features, ids, gained, torch.ones(6))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        moved = (total()[0] * total()[1]).sum(dim=1) - before
    assert moved[0] + moved[3] > 0 > moved[2] + moved[5]


def test_truncated_answers_teach_nothing(model, words, lines, features):
    some, ids = drawn(model, words, lines, features)
    loss = grpo.Loss(model, words, POLICY)
    value, _, _ = loss(some, features, ids, torch.ones(6), torch.zeros(6))
    model.zero_grad()
    value.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_best_of_some_answers_become_reasons(model, words, lines, features, tmp_path, monkeypatch):
    good = lambda e: words.ids(text.faithful(e.cues, e.label)) + [words.end]
    short = lambda e: words.ids(text.reason("I see nothing", e.label)) + [words.end]
    wrong = lambda e: words.ids(text.faithful(e.cues, "fear" if e.label != "fear" else "sad")) + [words.end]

    def drawn(model, words, examples, features, times, *_):
        # Of every even clip one answer is good, one says less; of odd ones none has the label.
        return [x for e in examples for x in ([wrong(e)] * (times - 2) + ([good(e), short(e)] if e.row % 2 == 0 else [wrong(e)] * 2))]
    monkeypatch.setattr(grpo, "sample", drawn)
    plan = dataclasses.replace(recipe.PLANS["smoke"], batch=4, max_new=400)
    contest = contest_module.Contest(SimpleNamespace(plan=plan, seed=1), 8)
    kept, some, spent = contest.chosen("best-of-n", model, words, lines, features, 2e9, tmp_path)
    assert [line["id"] for line in kept] == [line["id"] for i, line in enumerate(lines) if i % 2 == 0] and spent > 0
    for line, row in zip(kept, range(0, 12, 2)):
        e = data.example(0, line, "reason")
        assert e.target == text.faithful(lines[row]["cues"], lines[row]["label"]) and e.cues is None
    assert torch.equal(some.batch([1])[0], features.batch([2])[0])
    # Where some answers are right and some are not, a group teaches.
    hard, _, less = contest.chosen("grpo-hard", model, words, lines, features, 5e9, tmp_path)
    assert [line["id"] for line in hard] == [line["id"] for line in kept] and all("cues" in line for line in hard) and less == spent
    monkeypatch.setattr(grpo, "sample", lambda model, words, examples, features, times, *_: [wrong(e) for e in examples for _ in range(times)])
    assert contest.chosen("best-of-n", model, words, lines, features, 2e9, tmp_path)[0] == []


def test_the_interval_of_a_uar_holds_it_and_narrows_with_clips():
    records = lambda n, right: {"labels": evaluate.spelled(rule.LABELS[i % 7] for i in range(n)), "answers": evaluate.spelled(
        rule.LABELS[(i if i % 10 < right else i + 1) % 7] for i in range(n))}
    rng = np.random.default_rng(2)
    uar, low, high = contest_module.interval([records(140, 7), records(140, 7)], rng, 200)
    assert low < uar < high and uar == pytest.approx(0.7)
    _, closer, nearer = contest_module.interval([records(1400, 7), records(1400, 7)], rng, 200)
    assert nearer - closer < 0.5 * (high - low)
    assert evaluate.spelled(["happy", "fear", "unknown", None, "hungry"]) == "067--"
    open_ones = {"labels": records(140, 7)["labels"] + "7", "answers": records(140, 7)["answers"] + "-"}
    assert contest_module.interval([open_ones], rng, 20)[0] == pytest.approx(0.7)       # `unknown` is not in it


def test_the_winner_is_often_right_and_its_claims_are_true(tmp_path):
    def result(recipe, uar, contradiction, budget=1.0, split="valid"):
        path = tmp_path / str(budget) / "1" / f"{recipe}.{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"about": {"recipe": recipe, "set": split, "budget": budget}, "report": {"uar": uar, "contradiction": contradiction}}))

    result("label", 0.95, math.nan)
    result("best-of-n", 0.90, math.nan)     # not one claim
    result("grpo-no-cues", 0.84, 0.16)
    result("grpo", 0.80, 0.06)
    result("explained", 0.78, 0.06)
    result("explained", 0.99, 0.0, budget=0.5)
    result("explained", 0.99, 0.0, split="test")
    assert contest_module.winner(tmp_path, 1.0) == "grpo"


def test_the_papers_rewards_and_ours(words, lines):
    line = lines[0]
    good = words.ids(text.faithful(line["cues"], line["label"])) + [words.end]
    bare = words.ids(line["label"]) + [words.end]
    e = data.example(0, line, "reason")
    ours = dataclasses.replace(POLICY, max_new=200)
    assert grpo.judged(ours, words, e, good)[0] == {"accuracy": 1.0, "length": 0.0, "format": 1.0, "cues": 1.0}
    assert grpo.judged(ours, words, e, bare)[0]["accuracy"] == 0.0
    assert grpo.judged(grpo.PAPER, words, e, bare)[0] == {"accuracy": 1.0, "format": 0.0}
    assert grpo.judged(ours, words, e, good[:-1])[2] is False
    assert (grpo.PAPER.group, grpo.PAPER.temperature, grpo.PAPER.beta, grpo.PAPER.loss, grpo.PAPER.updates) == (8, 1.0, 0.04, "grpo", 1)


@pytest.mark.parametrize("policy", [POLICY, dataclasses.replace(grpo.PAPER, group=3, prompts=2, max_new=8),
                                    dataclasses.replace(POLICY, updates=2, loss="dr_grpo", beta=0.1, drop_constant=False)])
def test_whole_steps_run_and_resume(root, words, lines, features, policy, tmp_path):
    def go(folder, stop_after=None):
        model = checkpoint.load(root)
        sft.trainable(model)
        reference = checkpoint.load(root).eval().requires_grad_(False)
        loop = settle(folder, 3, every=1, stop_after=stop_after)
        grpo.train(loop, model, words, lines, features, policy, 2, reference)
        return model, [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]
    whole, log = go(tmp_path / "a")
    go(tmp_path / "b", stop_after=2)
    resumed, again = go(tmp_path / "b")
    assert [x["reward"] for x in again] == pytest.approx([x["reward"] for x in log])
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name


def test_beta_without_a_reference_is_refused(model, words, lines, features, tmp_path):
    with pytest.raises(ValueError, match="reference"):
        grpo.train(settle(tmp_path, 1), model, words, lines, features, grpo.PAPER, 1)


# --- evaluation -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_label_scores_are_mean_likelihoods_of_the_labels_own_tokens(model, words, lines, features):
    model.eval()
    some = [data.example(i, lines[i], "reason") for i in (0, 1)]
    got = scores.of_labels(model, words, some, features).numpy()
    assert got.shape == (2, 7) and got.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    seen, heard = features.batch([1])
    prompt = model.splice(words.pieces(text.LABEL), *model.rows(seen, heard, model.gate(words.bert_ids(text.LABEL))))
    means = []
    for label in rule.LABELS:
        ids = words.ids(f"<answer>{label}</answer>")
        ids = ids[: len(ids) - len(words.ids("</answer>")) + 1]
        rows = torch.cat([prompt, model.model.embed_tokens(torch.tensor([ids]))], dim=1)
        logps = torch.log_softmax(model(inputs_embeds=rows).logits[0, prompt.shape[1] - 1:-1], dim=1)
        each = [float(logps[i, t]) for i, t in enumerate(ids)]
        shared = len(words.ids("<answer"))
        means.append(np.mean(each[shared:]))
    want = np.exp(means) / np.exp(means).sum()
    assert got[1] == pytest.approx(want, abs=1e-4)


def test_metrics_by_hand():
    assert evaluate.uar(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"]) == pytest.approx(0.75)
    assert evaluate.ece([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0]) == pytest.approx(0.05)
    record = {"label": "sad", "answer": "sad", "subset": "fusion", "format": 1.0, "scores": [0.1, 0.9, 0, 0, 0, 0, 0], "claims": 4,
              "supported": 3, "contradicted": 1, "absent": 0, "empty": 0, "cues": 6, "tokens": 9, "beside": ("happy",)}
    r = evaluate.report([record, {**record, "label": "happy"}, {**record, "label": "unknown", "answer": "unknown"}])
    assert (r["uar"], r["war"], r["uar_fusion"], r["unknown_recall"]) == (0.5, 0.5, 0.5, 1.0)
    assert (r["claim_precision"], r["contradiction"], r["claim_recall"]) == (0.75, 0.25, 0.5)
    assert r["ece"] == pytest.approx(0.4) and r["beside"] == 1.0
    assert evaluate.report([{**record, "beside": ("fear",)}, {**record, "beside": ()}])["beside"] == 0.0


def test_claims_vocabulary_covers_the_world():
    for i in range(200):
        for cue in clip.cues_of(clip.plan(4, "train", i), 0.1, 0.9):
            modality, values = claims.CUES[cue["cue"]]
            assert cue["value"] in values and modality == cue["modality"]
