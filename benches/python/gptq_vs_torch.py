"""Time of the GPTQ solver, a square weight into Q4_K with the Hessian given, against GPTQ written in torch for the CPU.

    python benches/python/gptq_vs_torch.py [--size 4096] [--effort fast normal] [--threads 2]

The torch version is plain GPTQ (upper Cholesky factor of the inverse, lazy batches of 256 columns) with the
super-blocks of Q4_K: 8 sub-blocks of 32 with scales and minima from their range, rounded to 6 bits of a common step,
when the super-block is entered. It neither searches for scales nor refits them, and does not pack its codes; the solver
does all of this. Times include the factorisation. Needs torch.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ggquant.methods.solver import FactoredHessian


def torch_gptq(w: torch.Tensor, hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """The weights as plain GPTQ rounds them."""
    size = w.shape[1]
    damped = hessian + damp * hessian.diagonal().mean() * torch.eye(size)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    w, out = w.clone(), torch.empty_like(w)
    for first in range(0, size, 256):
        block, factor = w[:, first : first + 256].clone(), upper[first : first + 256, first : first + 256]
        subs = block.reshape(len(w), 8, 32)
        low = subs.amin(2).clamp(max=0)
        scales, mins = (subs.amax(2) - low) / 15, -low
        steps = [x.amax(1, keepdim=True).clamp(min=1e-12) / 63 for x in (scales, mins)]
        scales, mins = ((x / step).round() * step for x, step in zip((scales, mins), steps, strict=True))
        errors = torch.empty_like(block)
        for i in range(256):
            scale, least = scales[:, i // 32].clamp(min=1e-12), mins[:, i // 32]
            rounded = ((block[:, i] + least) / scale).round().clamp(0, 15) * scale - least
            out[:, first + i] = rounded
            errors[:, i] = (block[:, i] - rounded) / factor[i, i]
            block[:, i:] -= errors[:, i : i + 1] * factor[i : i + 1, i:]
        w[:, first + 256 :] -= errors @ upper[first : first + 256, first + 256 :]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--effort", nargs="+", default=["fast", "normal"])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    random = np.random.default_rng(0)
    w = random.standard_normal((given.size, given.size), np.float32)
    x = random.standard_normal((given.size + 64, given.size), np.float32)
    x *= np.logspace(0, -2, given.size, dtype=np.float32)
    hessian = x.T @ x / len(x)
    damped = hessian + 0.01 * float(np.diag(hessian).mean()) * np.eye(given.size, dtype=np.float32)

    def loss(errors: np.ndarray) -> float:
        return float(((errors @ damped) * errors).sum(dtype=np.float64))

    for effort in given.effort:
        start = time.perf_counter()
        factored = FactoredHessian(hessian, damp=0.01, effort=effort)
        _ = factored.damp
        middle = time.perf_counter()
        result = factored.solve(w, "Q4_K", threads=given.threads)
        end = time.perf_counter()
        print(f"ggquant {effort:7} {end - start:6.2f} s (factor {middle - start:.2f} s), "
              f"loss x{result.solved.sum() / result.rounded.sum():.3f} of weighted rounding", flush=True)  # fmt: skip
        rounded = float(result.rounded.sum())
    start = time.perf_counter()
    with torch.no_grad():
        out = torch_gptq(torch.from_numpy(w), torch.from_numpy(hessian), 0.01)
    print(f"torch           {time.perf_counter() - start:6.2f} s, loss x{loss(w - out.numpy()) / rounded:.3f}")


if __name__ == "__main__":
    main()
