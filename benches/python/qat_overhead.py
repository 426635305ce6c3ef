"""What fake quantization adds to a training step on a CPU.

    python benches/python/qat_overhead.py --format Q4_K --hidden 2048 --tokens 512 --scale-refresh 8

A Llama layer with its embedding and output, once plain and once under quantization: forward, loss, backward, AdamW.
The two take turns a step at a time, so that a busy machine slows both. Whole cycles of `--scale-refresh` steps are
measured, with their share of searches. Prints medians over cycles of wall and CPU time.

Needs `pip install 'ggquant[torch]' transformers`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from ggquant import qat


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="Q4_K")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--scale-refresh", type=int, default=8)
    parser.add_argument("--learn-scales", action="store_true")
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=1,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 256,
        max_position_embeddings=args.tokens,
    )
    plain = transformers.AutoModelForCausalLM.from_config(config)
    fake = copy.deepcopy(plain)
    refresh = 1 if args.learn_scales else args.scale_refresh
    qat.prepare(
        fake,
        "Q4_K_S",
        scheme={r"weight": args.format},
        scale_refresh=refresh,
        learn_scales=args.learn_scales,
        threads=args.threads,
    )
    weights = sum(p.numel() for p in plain.parameters())
    ids = torch.randint(0, config.vocab_size, (1, args.tokens))
    steps = {}
    for name, model in (("plain", plain), ("quantized", fake)):
        model.train()
        steps[name] = _stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True), ids)
        steps[name]()  # the optimizer's state, the first search
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.cycles):
        sums = {name: [0.0, 0.0] for name in steps}
        for _ in range(args.scale_refresh):
            for name, step in steps.items():
                began = time.perf_counter(), time.process_time()
                step()
                sums[name][0] += time.perf_counter() - began[0]
                sums[name][1] += time.process_time() - began[1]
        for name, (seconds, used) in sums.items():
            wall[name].append(seconds / args.scale_refresh)
            cpu[name].append(used / args.scale_refresh)
    print(f"{args.format}, {weights / 1e6:.0f} M weights, {args.tokens} tokens, {args.threads} threads, {vars(args)}")
    for title, times in (("wall", wall), ("CPU", cpu)):
        before, after = (statistics.median(times[name]) for name in ("plain", "quantized"))
        print(f"{title}: {before:.3f} s a step plain, {after:.3f} s quantized: +{100 * (after / before - 1):.1f}%")


def _stepper(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
