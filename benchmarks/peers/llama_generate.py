"""llama.cpp over a Llama folder: makes a GGUF file of it, then answers requests, one line of JSON each way.

    python benchmarks/peers/llama_generate.py FOLDER TYPE THREADS    (TYPE: F16, BF16, Q8_0 or Q4_0)

FOLDER holds config.json and weights in float16 or float32 (`model*.safetensors`). A request is
{"prompts": [[ids]], "tokens": n, "clock": "wall" or "processor"}; the answer {"seconds", "ids"}: greedy answers to all
prompts at once, of n tokens each, one decode call a step as llama.cpp's own `batched` example has it. Run by
infer_engine.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CONTEXT = 2048  # of each sequence
SEQUENCES = 16
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Weights by GGUF's names; queries and keys in its order, which turns neighbouring numbers of a head together."""
    for path in sorted(folder.glob("model*.safetensors")):
        for name, weight in load_file(path).items():
            stem = name.removesuffix(".weight")
            if stem.startswith("model.layers."):
                _, _, layer, part = stem.split(".", 3)
                target = f"blk.{layer}.{NAMES[part]}.weight"
            else:
                part, target = stem, f"{NAMES[stem]}.weight"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = config["num_attention_heads" if part == "self_attn.q_proj" else "num_key_value_heads"]
                weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            yield target, weight


def write(folder: Path, kind: str, path: Path) -> None:
    """The GGUF file: matrices of type `kind`, norms in float32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    theta = config.get("rope_theta") or config.get("rope_parameters", {})["rope_theta"]
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    chosen = gguf.GGMLQuantizationType[kind]
    for name, weight in tensors(folder, config):
        kept = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else chosen
        writer.add_tensor(name, gguf.quants.quantize(weight.astype(np.float32), kept), raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Peer:
    """A model and its context."""

    def __init__(self, path: Path, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self.log = llama_cpp.llama_log_callback(lambda *_: None)  # kept, as llama.cpp holds only its address
        llama_cpp.llama_log_set(self.log, None)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"{path}: llama.cpp cannot load it")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = CONTEXT * SEQUENCES, SEQUENCES
        settings.n_batch = settings.n_ubatch = 1024
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(1024, 0, 1)

    def step(self, rows: list[tuple[int, int, list[int]]]) -> list[int]:
        """Read new tokens of sequences, each (sequence, place of the first, ids); the likeliest next token of each."""
        batch, size, ends = self.batch, 0, []
        for sequence, first, ids in rows:
            for at, token in enumerate(ids):
                batch.token[size], batch.pos[size] = token, first + at
                batch.n_seq_id[size], batch.seq_id[size][0] = 1, sequence
                batch.logits[size] = at == len(ids) - 1
                size += 1
            ends.append(size - 1)
        batch.n_tokens = size
        if llama_cpp.llama_decode(self.context, batch):
            sys.exit("llama_decode failed")
        logits = (llama_cpp.llama_get_logits_ith(self.context, end) for end in ends)
        return [int(np.ctypeslib.as_array(row, (self.vocabulary,)).argmax()) for row in logits]

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Greedy answers to all prompts at once."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        answers: list[list[int]] = []
        fit = max(1, 1024 // len(prompts[0]))
        for start in range(0, len(prompts), fit):  # prompts are read as many at once as fit into a batch
            part = prompts[start : start + fit]
            answers += [[token] for token in self.step([(start + at, 0, ids) for at, ids in enumerate(part)])]
        for done in range(1, tokens):
            rows = [(at, len(prompts[at]) + done - 1, answer[-1:]) for at, answer in enumerate(answers)]
            for answer, token in zip(answers, self.step(rows), strict=True):
                answer.append(token)
        return answers


def main() -> None:
    """Serve until the input ends."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    path = folder / f"{kind}.gguf"
    if not path.is_file():
        write(folder, kind, path)
    peer = Peer(path, int(sys.argv[3]))
    print(json.dumps({"ready": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        clock = CLOCKS[asked["clock"]]
        start = clock()
        ids = peer.generate(asked["prompts"], asked["tokens"])
        print(json.dumps({"seconds": clock() - start, "ids": ids}), flush=True)


if __name__ == "__main__":
    main()
