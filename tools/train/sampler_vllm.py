"""Draws answers with vLLM. `sampler.Vllm` starts this with a Python that has vLLM, and nothing of ours is imported here.

    python -P sampler_vllm.py FOLDER LONGEST

FOLDER/decoder is a plain Qwen2 checkpoint; no prompt and its answer have more than LONGEST tokens. A request is a line of JSON on the standard input:
`times`, `max_new`, `temperature`, `seeds` (of each prompt), `ends` (token ids). Its prompts are the embeddings in FOLDER/prompts.safetensors, and the
checkpoint's weights are read again for it. A reply is a line on the standard output: the token ids of every answer, the end token included.
"""

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"      # no third process
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")    # GiB


def main():
    folder, longest = Path(sys.argv[1]), int(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)       # what vLLM prints is no reply

    import torch
    import vllm
    from safetensors.torch import load_file
    engine = vllm.LLM(model=str(folder / "decoder"), skip_tokenizer_init=True, enable_prompt_embeds=True, enable_prefix_caching=True,
                      enforce_eager=not torch.cuda.is_available(), max_model_len=longest, gpu_memory_utilization=0.35, disable_log_stats=True)
    for line in sys.stdin:
        ask = json.loads(line)
        engine.collective_rpc("reload_weights")
        engine.reset_prefix_cache()
        prompts = load_file(folder / "prompts.safetensors")
        params = [vllm.SamplingParams(n=ask["times"], temperature=ask["temperature"], max_tokens=ask["max_new"], seed=seed, stop_token_ids=ask["ends"],
                                      ignore_eos=True, detokenize=False) for seed in ask["seeds"]]
        drawn = engine.generate([{"prompt_embeds": prompts[str(i)]} for i in range(len(params))], params, use_tqdm=False)
        print(json.dumps([list(answer.token_ids) for one in drawn for answer in sorted(one.outputs, key=lambda o: o.index)]), file=replies)


if __name__ == "__main__":
    main()
