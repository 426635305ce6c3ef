"""Modules of a checkpoint by GPTQ or AWQ: the pass over the model's layers, and its results module by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant.calibration import default_text, read_texts
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import CheckpointError, NonFiniteError, UsageError
from ggquant.export.layouts import Bytes, Codes, float_bytes
from ggquant.export.places import Place, by_place, places
from ggquant.export.scheme import Scheme
from ggquant.export.solve import Grids, GroupPass, GroupStoring, SolvedGroups, converted_norm, norm_to_store
from ggquant.layerwise.convert import calibration_tokens, stored_hessians
from ggquant.layerwise.cost import Cost, solving_cost
from ggquant.layerwise.finite import name_weight
from ggquant.layerwise.folds import places as scalable
from ggquant.layerwise.hessians import disk_need
from ggquant.layerwise.needs import Needs
from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.layerwise.scaled import changed_tensors, check_same, find_scales, scaled_model
from ggquant.layerwise.watch import LayerwiseProgress, Watch
from ggquant.methods.solver import IntegerGroups
from ggquant.model import SourceTensor
from ggquant.runtime import RunnableModel, open_model
from ggquant.runtime.memory import work_rate
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.sources import load_model
from ggquant.tensor import QuantizedTensor

if TYPE_CHECKING:
    import os

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """How modules are solved, and on what.

    Attributes:
        texts: files; the package's own text without any.
        chunks: how many chunks of text to use, at most; all by default.
        context: tokens in a chunk.
        seed: choose the chunks at random, reproducibly; otherwise they are taken from the beginning.
        damp: added to the diagonal of Hessians, relative to its mean.
        act_order: solve, and group, columns by falling diagonal of the Hessian (`desc_act`).
        sequential: later layers, and later modules of a layer, see the quantized earlier ones (`true_sequential`).
        hessians: a file of Hessians to solve with; where there is none, they are collected into it first. They are
            those of the model as it was, so that `sequential` must be false.
        pre: name of the pre-tokenizer, where it cannot be found.
        starting: told what it takes, before anything is done.
        progress: told where the pass stands.
    """

    texts: Sequence[str | os.PathLike[str]] = ()
    chunks: int | None = None
    context: int = 512
    seed: int | None = None
    damp: float = 0.03
    act_order: bool = False
    sequential: bool = True
    hessians: str | os.PathLike[str] | None = None
    pre: str | None = None
    starting: Callable[[Needs], object] | None = field(default=None, compare=False, repr=False)
    progress: Callable[[LayerwiseProgress], object] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class SolvedModule:
    """A module's codes.

    Attributes:
        name: of the module.
        codes: of its weights; in act-order `listed` is set.
        report: of the weight, or stack of weights, that it is or is part of.
    """

    name: str
    codes: Codes
    report: TensorReport


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor that takes up scales: its name in the checkpoint, and its data."""

    name: str
    data: Bytes


@dataclass
class _Filling:
    """A module whose rows come from one GGUF tensor or several."""

    codes: Codes
    missing: int


class ModulePass:
    """The pass of GPTQ or AWQ over a checkpoint's modules.

    Args:
        source: the checkpoint, or a GGUF file.
        like: the checkpoint that has the names; `source` itself where it is one.
        stored: its tensors.
        modules: names of the modules to solve, with the type of their scales.
        scheme: width, groups, symmetry.
        least_zero: the smallest zero point that the layout can store.
        method: "gptq", "awq" or "awq+gptq".
        how: further options.
        threads: number of threads.

    Raises:
        UsageError: too little text.
        UnsupportedError: a family that cannot be run, or whose weights are no rows of the checkpoint's.
    """

    def __init__(
        self,
        source: Path,
        like: Path,
        stored: Mapping[str, StoredTensor],
        modules: Mapping[str, str],
        scheme: Scheme,
        least_zero: int,
        method: str,
        how: Calibration,
        threads: int | None,
    ) -> None:
        self._scheme, self._how = scheme, how
        self._model = open_model(source, threads=threads, pre=how.pre if source.is_dir() else None)
        layout = self._model.source if source == like else load_model(like, pre=how.pre)
        self._places, self._norms = _places(layout.tensors, stored, modules)
        self._grids = Grids(scheme, _scale_types(self._places, modules), least_zero, how.act_order)
        self._options = LayerwiseOptions(
            damp=how.damp,
            # GPTQ as published: with scales taken from ranges, corrections of targets fit the text, not the model.
            cross=0.0,
            residual=0.0,
            sequential=how.sequential,
            awq="awq" in method,
            gptq="gptq" in method,
            threads=threads,
        )
        if how.hessians is not None and how.sequential:
            raise UsageError("a file of Hessians has those of the model as it was: it goes with sequential=False")
        text = read_texts(how.texts, self._model.metadata) if how.texts else default_text()
        self.text_names, self._text = text.names, text
        self.tokens = calibration_tokens(self._model, text, how.context, how.chunks, how.seed)
        self.warnings = _unseen(modules, self._places)

    def run(
        self, earlier: Mapping[str, SolvedTensor], *, resume: bool = False
    ) -> Iterator[SolvedModule | ChangedTensor]:
        """Solves the modules, in the order of the forward pass.

        Args:
            earlier: by GGUF name, what an earlier run solved; it does not come again.
            resume: keep what is done of a file of Hessians when the run fails, and go on from what an earlier one left.

        Raises:
            NonFiniteError: weights or activations that are not finite.
        """
        try:
            yield from self._run(earlier, resume)
        except NonFiniteError:
            name_weight(self._model)
            raise

    def _run(self, earlier: Mapping[str, SolvedTensor], resume: bool) -> Iterator[SolvedModule | ChangedTensor]:
        known = [name for name in self._grids.scale_types if name in earlier]
        total = len(self._grids.scale_types)
        watch = Watch(self._how.progress, self._model.n_layer, self._cost(known), self._rate, len(known), total)
        stored = None
        if self._how.hessians is not None:
            path = Path(self._how.hessians)
            stored = stored_hessians(self._model, self._text, self.tokens, path, resume=resume, progress=watch.hessians)
        model = self._model
        if self._options.awq:
            model = self._scaled(watch.scales)
            for tensor in changed_tensors(model, self._model):
                place = self._norms.get(tensor.name)
                if place is not None and tensor.name not in earlier:
                    values = norm_to_store(place.source, as_float32(read_tensor(tensor)))
                    yield ChangedTensor(place.stored.name, float_bytes(values, place.stored.dtype))
        work = GroupPass(model, self.tokens, self._grids, self._options, watch.next, earlier, stored)
        filling: dict[str, _Filling] = {}
        for one in work.run():
            if one.name in earlier:
                continue
            if not isinstance(one, SolvedGroups):
                raise AssertionError("a pass over groups solves into groups")
            watch.solved(one.report)
            for place in self._places[one.name]:
                module = place.stored.name.removesuffix(".weight")
                made = filling.setdefault(module, self._empty(place.stored))
                _fill(made, place, one)
                if not made.missing:
                    yield SolvedModule(module, filling.pop(module).codes, one.report)

    def preflight(self, nbytes: int, folder: Path) -> None:
        """Tells what the pass takes, and refuses what the machine has no room for.

        Args:
            nbytes: of the output.
            folder: where it goes.

        Raises:
            UsageError: less memory or disk space is free than needed.
        """
        needs = Needs.of(
            self._model,
            self.tokens,
            self._stand_ins(),
            self._options,
            seconds=self._cost(()).total / self._rate,
            disk_bytes=nbytes,
            hessian_bytes=disk_need(self._model) if self._collects() else 0,
        )
        needs.check(self._model.path, folder)
        if self._how.starting is not None:
            self._how.starting(needs)

    def _cost(self, done: Collection[str]) -> Cost:
        stored = self._how.hessians is not None
        # Groups of integers take no descent.
        options = replace(self._options, effort="fast")
        return solving_cost(
            self._model, self.tokens.size, self._stand_ins(), options,
            stored=stored, collects=self._collects(), done=done,
        )  # fmt: skip

    def _stand_ins(self) -> dict[str, str]:
        """The block format that is most like groups of integers, for each weight."""
        return dict.fromkeys(self._grids.scale_types, "Q4_0")

    def _collects(self) -> bool:
        return self._how.hessians is not None and not Path(self._how.hessians).exists()

    @cached_property
    def _rate(self) -> float:
        return work_rate(self._model)

    def _scaled(self, tell: Callable[[int, str], None]) -> RunnableModel:
        """The model with AWQ's scales, which norms and the rows of solved modules take up."""
        vectors = {name: (place.source, place.stored.dtype) for name, place in self._norms.items()}
        storing = GroupStoring(self._grids, vectors, self._options.threads)
        # A bias that is stored in 16 bits would be rounded anew.
        changeable = {n for n, (_, dtype) in vectors.items() if dtype == "F32" or not n.endswith(".bias")}
        found = scalable(self._model, self._grids.scale_types, changeable)
        scales = list(find_scales(self._model, self.tokens, found, storing, tell, {}))
        scaled = scaled_model(self._model, scales, storing)
        check_same(self._model, scaled, self.tokens)
        return scaled

    def earlier(self, done: Container[str], values: Callable[[str], Floats]) -> Mapping[str, SolvedTensor]:
        """What an earlier run solved, by GGUF name; read when it is asked for.

        Args:
            done: names of the checkpoint's modules and tensors that are written.
            values: reads one of them, float32 `[rows, columns]`, or a vector.
        """
        everything = {**self._places, **{name: [place] for name, place in self._norms.items()}}
        whole = {n: own for n, own in everything.items() if all(_unit(place) in done for place in own)}
        return _Earlier(whole, values, self._scheme.label)

    def _empty(self, tensor: StoredTensor) -> _Filling:
        rows, columns = tensor.shape
        groups = (rows, self._scheme.groups(columns))
        codes = Codes(np.empty(tensor.shape, np.uint8), np.empty(groups, np.float32), np.empty(groups, np.uint8))
        if self._how.act_order:
            codes = Codes(codes.codes, codes.scales, codes.zeros, np.full(columns, -1, np.int32))
        return _Filling(codes, rows)


class _Earlier(Mapping[str, SolvedTensor]):
    """Solved tensors as they lie in an unfinished folder."""

    def __init__(self, found: Mapping[str, list[Place]], values: Callable[[str], Floats], label: str) -> None:
        self._found, self._values, self._label = found, values, label

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, name: str) -> SolvedTensor:
        own = self._found[name]
        source = own[0].source
        if len(source.shape) == 1:
            value = converted_norm(source, self._values(_unit(own[0])))
        else:
            value = np.concatenate([self._values(_unit(place))[place.rows] for place in own])
        data = np.ascontiguousarray(value, "<f4").reshape(-1).view(np.uint8)
        report = TensorReport(name, self._label, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, "from an earlier run")
        return SolvedTensor(name, QuantizedTensor(data, "F32", source.shape), None, report)


def _unit(place: Place) -> str:
    name = place.stored.name
    return name.removesuffix(".weight") if len(place.stored.shape) == 2 else name


def _places(
    tensors: Sequence[SourceTensor], stored: Mapping[str, StoredTensor], modules: Mapping[str, str]
) -> tuple[dict[str, list[Place]], dict[str, Place]]:
    """By GGUF name: where the rows of matrices lie that are made of wanted modules alone, and where vectors lie."""
    known = by_place(stored)
    matrices: dict[str, list[Place]] = {}
    vectors: dict[str, Place] = {}
    for tensor in tensors:
        found = [known.get((view.file, view.offset)) for view in tensor.views]
        names = [part.name for part in found if part is not None]
        if not found or len(names) != len(found):
            continue
        if len(tensor.shape) == 1:
            if len(found) == 1 and stored[names[0]].dtype in ("F32", "F16", "BF16"):
                vectors[tensor.name] = next(places(tensor, known))
        elif all(name.removesuffix(".weight") in modules for name in names):
            matrices[tensor.name] = list(places(tensor, known))
    return matrices, vectors


def _scale_types(found: Mapping[str, list[Place]], modules: Mapping[str, str]) -> dict[str, str]:
    kinds = {}
    for name, own in found.items():
        types = {modules[place.stored.name.removesuffix(".weight")] for place in own}
        if len(types) > 1:
            raise CheckpointError(f"tensor '{name}': its parts are stored in different types", tensor=name)
        kinds[name] = types.pop()
    return kinds


def _unseen(modules: Mapping[str, str], found: Mapping[str, list[Place]]) -> list[str]:
    seen = {place.stored.name.removesuffix(".weight") for own in found.values() for place in own}
    if left := [module for module in modules if module not in seen]:
        return [
            f"{len(left)} modules are no part of the text model that is run, so they are rounded to nearest: "
            f"{left[0]}{', ...' if len(left) > 1 else ''}"
        ]
    return []


def _fill(made: _Filling, place: Place, solved: SolvedGroups) -> None:
    """Puts the rows of a solved weight where they belong in a module."""
    each = len(solved.groups[0].codes)
    by_part: dict[int, list[int]] = defaultdict(list)
    for at in range(len(place.rows)):
        by_part[(place.first + at) // each].append(at)
    for number, own in by_part.items():
        part, rows = solved.groups[number], place.rows[own]
        source = slice(place.first + own[0] - number * each, place.first + own[-1] + 1 - number * each)
        codes = made.codes
        codes.codes[rows], codes.scales[rows] = part.codes[source], part.scales[source]
        codes.zeros[rows] = part.zeros[source]
        if codes.listed is not None:
            _same_groups(codes.listed, part, place)
    made.missing -= len(place.rows)


def _same_groups(listed: npt.NDArray[np.int32], part: IntegerGroups, place: Place) -> None:
    if listed[0] >= 0 and not np.array_equal(listed, part.group_of):
        raise CheckpointError(
            f"tensor {place.stored.name}: its parts have inputs of their own, and act-order needs one order for all; "
            "do without it",
            tensor=place.stored.name,
        )
    listed[:] = part.group_of
