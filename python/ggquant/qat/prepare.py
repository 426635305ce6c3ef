"""Put a model's weights under quantization, and take them out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch.nn.utils import parametrize

from ggquant.errors import UnsupportedError, UsageError
from ggquant.imatrix import Imatrix, load_imatrix
from ggquant.qat.activations import activation_block, fake_quantize_activations
from ggquant.qat.control import Control
from ggquant.qat.fake import FakeQuantized
from ggquant.qat.learned import has_float_scales
from ggquant.qat.mapping import Piece, lay_out

if TYPE_CHECKING:
    import os


def prepare(
    model: torch.nn.Module,
    variant: str = "Q4_K_M",
    *,
    imatrix: str | os.PathLike[str] | Imatrix | Mapping[str, npt.ArrayLike] | None = None,
    scheme: str | Mapping[str, str] = "variant",
    activations: str | None = None,
    start_step: int = 0,
    scale_refresh: int = 1,
    clamp_gradient: bool = False,
    learn_scales: bool = False,
    threads: int | None = None,
) -> torch.nn.Module:
    """Puts a model under quantization-aware training, in place.

    Forward then computes with the weights that the GGUF file will hold: every weight that the variant quantizes goes
    through the native encoder and back, in the orientation and row order in which GGUF stores it. Backward passes the
    gradient to the unquantized weight (Bengio et al., 2013, arXiv 1308.3432). The optimizer sees the parameters that
    it saw before, and `state_dict()` has the names that it had.

    Args:
        model: a model of transformers, of a family that `ggquant quantize` converts. float32 parameters are best; in
            bfloat16 and float16, the quantized values are rounded to the parameter's type.
        variant: what to train for, as `ggquant quantize` names it.
        imatrix: importance matrix: a file, an `Imatrix`, or arrays by GGUF name.
        scheme: "variant", or `{regular expression: format}`: tensors whose GGUF name or parameter's name matches take
            that format (the first match counts), all others follow the variant.
        activations: None, or "int8": inputs of quantized layers are rounded as llama.cpp rounds them.
        start_step: weight updates before quantization begins.
        scale_refresh: a search for scales every so many updates; in between, codes follow the weights on the scales of
            the last one.
        clamp_gradient: stop the gradient of weights that lie beyond their sub-block's range.
        learn_scales: search for scales once, then train them with the weights (LSQ, Esser et al., 2019, arXiv
            1902.08153): `scale_parameters` gives the factors to the optimizer. For formats whose scales are floats.
        threads: number of threads of the encoders. It does not change the result.

    Returns:
        `model`.

    Raises:
        UsageError: already prepared, or an argument out of range.
        UnsupportedError: an unknown family, a layer that cannot be trained this way, or `learn_scales` with a format
            that has no float scales.
        ImatrixError: the variant needs an importance matrix.
    """
    if fakes(model):
        raise UsageError(f"{type(model).__name__} is under quantization already; call convert first to prepare it anew")
    if activations not in (None, "int8"):
        raise UsageError(f"activations {activations!r} are unknown; give None or 'int8'")
    if start_step < 0 or scale_refresh < 1:
        raise UsageError(
            f"start_step {start_step} must not be negative, and scale_refresh {scale_refresh} is at least 1"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    matrix = load_imatrix(imatrix) if imatrix is not None else None
    layout = lay_out(model, variant, scheme, matrix)
    if learn_scales:
        _check_learned(layout.pieces, scale_refresh)
    control = Control(layout, start_step, scale_refresh, clamp_gradient, threads, learn_scales)
    places = _places(model)
    if activations is not None:
        _check_activations(layout.pieces, places)
    for name, pieces in layout.pieces.items():
        fake = FakeQuantized(name, pieces, control)
        fake.to(places[name][0][0].get_parameter(places[name][0][1]).device)
        fake.train(model.training)
        for module, attribute in places[name]:
            parametrize.register_parametrization(module, attribute, fake, unsafe=True)
            control.handles += _keep_names(module, attribute)
            if activations is not None:
                control.handles.append(_round_inputs(module, pieces[0].format))
    return model


def convert(model: torch.nn.Module) -> torch.nn.Module:
    """Takes a model out of quantization-aware training, in place: plain parameters with the trained weights.

    The weights are those the optimizer holds, not their quantized values; `export_gguf` writes the latter.

    Raises:
        UsageError: the model is not prepared.
    """
    control = control_of(model)
    inner = unwrap(model)
    for module in list(inner.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for attribute, steps in list(module.parametrizations.items()):
            if any(isinstance(step, FakeQuantized) for step in steps):
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    for handle in control.handles:
        handle.remove()
    return model


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside of DistributedDataParallel or torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


def fakes(model: torch.nn.Module) -> dict[str, FakeQuantized]:
    """The fake quantization of each quantized parameter, by the parameter's name; empty without any."""
    found = (module for module in unwrap(model).modules() if isinstance(module, FakeQuantized))
    return {fake.name: fake for fake in found}


def control_of(model: torch.nn.Module) -> Control:
    """The options and switches of a prepared model.

    Raises:
        UsageError: the model is not prepared.
    """
    for fake in fakes(model).values():
        return fake.control
    raise UsageError(f"{type(unwrap(model)).__name__} is not under quantization-aware training; call prepare first")


def originals(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every parameter under the name that it has without quantization, tied ones once."""
    gains = {id(gain) for gain in scale_parameters(model)} if fakes(model) else set()
    named = unwrap(model).named_parameters()
    return {_plain_name(name): parameter for name, parameter in named if id(parameter) not in gains}


def scale_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What `prepare(..., learn_scales=True)` trains in the place of scales: factors that begin at 1.

    They are among `model.parameters()`, float32 `[blocks, floats of a block]`, one for each quantized matrix. They have
    no unit: a step of Adam at rate r moves each scale by about the share r, and a group of their own can have
    another rate. Keep weight decay off them. `quantized_state` saves them; `state_dict()` does not have them.

    Raises:
        UsageError: the model is not prepared.
    """
    control_of(model)
    return [gain for fake in fakes(model).values() for gain in fake.gains]


def _plain_name(name: str) -> str:
    parts = name.split(".")
    if len(parts) >= 3 and parts[-1] == "original" and parts[-3] == "parametrizations":
        parts = [*parts[:-3], parts[-2]]
    return ".".join(parts)


def _places(model: torch.nn.Module) -> dict[str, list[tuple[torch.nn.Module, str]]]:
    """Every module that holds a parameter, by the name under which it comes first."""
    first: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[str, list[tuple[torch.nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            places.setdefault(first[id(parameter)], []).append((module, attribute))
    return places


def _check_learned(pieces: Mapping[str, list[Piece]], scale_refresh: int) -> None:
    if scale_refresh != 1:
        raise UsageError("scales that are learned are not searched for again; leave scale_refresh out")
    for piece in (piece for own in pieces.values() for piece in own):
        if not has_float_scales(piece.format):
            raise UnsupportedError(
                f"tensor '{piece.tensor}': scales of {piece.format} cannot be learned: they are not floats, or its "
                "weights have no codes of their own; prepare without learn_scales",
                tensor=piece.tensor,
            )


def _check_activations(pieces: Mapping[str, Any], places: Mapping[str, list[tuple[torch.nn.Module, str]]]) -> None:
    for name in pieces:
        for module, attribute in places[name]:
            if attribute != "weight":
                raise UnsupportedError(
                    f"parameter {name}: inputs of expert stacks cannot be rounded from outside of their module; "
                    "prepare without activations"
                )
            del module


def _round_inputs(module: torch.nn.Module, format: str) -> torch.utils.hooks.RemovableHandle:
    block = activation_block(format)

    def round_first(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or not torch.is_floating_point(args[0]):
            return None  # an embedding's input is token ids
        return (fake_quantize_activations(args[0], block), *args[1:])

    return module.register_forward_pre_hook(round_first)


def _keep_names(module: torch.nn.Module, attribute: str) -> list[torch.utils.hooks.RemovableHandle]:
    """Lets `state_dict` and `load_state_dict` of `module` use the parameter's plain name."""
    inner = f"parametrizations.{attribute}.original"
    gains = f"parametrizations.{attribute}.0.gains."

    def save(_: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        if prefix + inner in state:
            state[prefix + attribute] = state.pop(prefix + inner)
        for name in [name for name in state if name.startswith(prefix + gains)]:
            del state[name]

    def load(owner: torch.nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + attribute in state:
            state[prefix + inner] = state.pop(prefix + attribute)
        for name, gain in owner.named_parameters():
            if name.startswith(gains):
                state[prefix + name] = gain.detach()  # as they are: quantized_state has them

    return [module.register_state_dict_post_hook(save), module.register_load_state_dict_pre_hook(load)]
