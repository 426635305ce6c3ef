"""How a model is solved: everything that the result depends on but the model and the text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ggquant.errors import UsageError
from ggquant.methods.solver import EFFORTS, Effort

#: What is done to weights.
Method = Literal["gptq", "awq", "awq+gptq"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class LayerwiseOptions:
    """How a model is solved.

    Attributes:
        effort: of the solver.
        damp: added to the diagonal of Hessians, relative to its mean.
        act_order: solve columns by falling diagonal within their windows.
        cross: strength of the correction for inputs that differ from those of the original model, 0 to 1.
        residual: strength of the correction of the residual stream, 0 to 1.
        sequential: later layers, and later weights of a layer, see the quantized earlier ones.
        awq: the model is to be scaled before it is solved, see `ggquant.layerwise.scaled`; without `gptq`, weights are
            clipped before they are rounded where that is better.
        gptq: let errors make up for each other; otherwise weights are rounded with their importance matrix.
        rounded: names of weights that are rounded with their importance matrix instead of being solved.
        fisher: let the errors of rows make up for each other as well, by gradients of the model's predictions, and
            solve the token embedding by the gradients at its output.
        token_weights: how far tokens count by the size of their gradients instead of all alike, 0 to 1.
        fisher_damp: added to the diagonal of the gradients' moments, relative to its mean.
        sweeps: how often rows see the errors of all others.
        seed: of the labels that gradients are taken for.
        threads: number of threads, None for one per core.
    """

    effort: Effort = "normal"
    damp: float = 0.03
    act_order: bool = True
    cross: float = 1.0
    residual: float = 0.5
    sequential: bool = True
    awq: bool = False
    gptq: bool = True
    rounded: tuple[str, ...] = ()
    fisher: bool = False
    token_weights: float = 0.0
    fisher_damp: float = 0.1
    sweeps: int = 1
    seed: int = 0
    threads: int | None = None

    @property
    def corrects(self) -> bool:
        """Whether weights make up for what the model has lost before them, so that the original runs beside it."""
        return (self.gptq or self.awq) and bool(self.cross or self.residual)

    def with_file(self) -> LayerwiseOptions:
        """The same with Hessians from a file, which are those of the model as it was.

        So no layer sees the quantized earlier ones, and there is nothing to correct for. Gradients are left out too:
        with them tokens count by the size of their gradients.

        Raises:
            UsageError: an effort that takes gradients; AWQ alone, which is no better than rounding without corrections.
        """
        if not self.gptq:
            raise UsageError(
                "a file of Hessians goes with --method gptq or awq+gptq: awq alone needs later layers to "
                "make up for what earlier ones have lost"
            )
        if self.fisher or self.token_weights:
            raise UsageError(
                "a file of Hessians cannot be used with --effort best, which weighs tokens by their gradients; "
                "use --effort normal"
            )
        return replace(self, sequential=False, cross=0.0, residual=0.0)

    @classmethod
    def of(cls, effort: Effort, method: Method = "gptq") -> LayerwiseOptions:
        """What an effort means: corrections are left out of the fast one, and only the best takes gradients.

        Without GPTQ there is one effort, with corrections: scales and clipping bring each layer closer to the original,
        but the model as a whole only where later layers make up for what is left.
        """
        if effort not in EFFORTS:
            raise UsageError(f"unknown effort '{effort}'; there are {', '.join(EFFORTS)}")
        if method not in METHODS:
            raise UsageError(f"unknown method '{method}'; there are {', '.join(METHODS)}")
        if method == "awq":
            return cls(effort=effort, residual=1.0, awq=True, gptq=False)
        best = effort == "best"
        return cls(
            effort=effort,
            cross=0.0 if effort == "fast" else 1.0,
            residual={"fast": 0.0, "normal": 0.5, "best": 1.0}[effort],
            awq=method == "awq+gptq",
            fisher=best,
            token_weights=0.5 if best else 0.0,
        )
