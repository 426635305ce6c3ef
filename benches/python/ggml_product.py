"""Matrix products of ggml's CPU backend, through ctypes: plain, and with the weights repacked where ggml does that."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """ggml-base and ggml-cpu of one build."""

    def __init__(self, folder: str | None) -> None:
        """Loads the libraries in `folder`, by default those of an installed llama-cpp-python."""
        if folder is None:
            import llama_cpp

            folder = str(Path(llama_cpp.__file__).parent / "lib")
        self._base = ctypes.CDLL(str(Path(folder) / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self._cpu = ctypes.CDLL(str(Path(folder) / "libggml-cpu.so"))
        pointer, long = ctypes.c_void_p, ctypes.c_int64
        declare(self._base.ggml_init, pointer, [_InitParams])
        declare(self._base.ggml_free, None, [pointer])
        declare(self._base.ggml_new_tensor_2d, pointer, [pointer, ctypes.c_int, long, long])
        declare(self._base.ggml_mul_mat, pointer, [pointer, pointer, pointer])
        declare(self._base.ggml_new_graph, pointer, [pointer])
        declare(self._base.ggml_build_forward_expand, None, [pointer, pointer])
        declare(self._base.ggml_backend_alloc_ctx_tensors_from_buft, pointer, [pointer, pointer])
        declare(self._base.ggml_backend_buffer_free, None, [pointer])
        size = ctypes.c_size_t
        declare(self._base.ggml_backend_tensor_set, None, [pointer, pointer, size, size])
        declare(self._base.ggml_backend_tensor_get, None, [pointer, pointer, size, size])
        declare(self._base.ggml_backend_graph_compute, ctypes.c_int, [pointer, pointer])
        declare(self._base.ggml_backend_reg_get_proc_address, pointer, [pointer, ctypes.c_char_p])
        declare(self._base.ggml_backend_reg_dev_get, pointer, [pointer, size])
        declare(self._base.ggml_backend_dev_buffer_type, pointer, [pointer])
        declare(self._base.ggml_backend_dev_supports_op, ctypes.c_bool, [pointer, pointer])
        declare(self._base.ggml_backend_buft_name, ctypes.c_char_p, [pointer])
        declare(self._cpu.ggml_backend_cpu_init, pointer, [])
        declare(self._cpu.ggml_backend_cpu_set_n_threads, None, [pointer, ctypes.c_int])
        declare(self._cpu.ggml_backend_cpu_reg, pointer, [])
        self._backend = self._cpu.ggml_backend_cpu_init()
        registry = self._cpu.ggml_backend_cpu_reg()
        self._device = device = self._base.ggml_backend_reg_dev_get(registry, 0)
        #: Kinds of memory for weights by name; all but "CPU" change the layout of what is stored in them.
        self.layouts: dict[str, int] = {"CPU": self._base.ggml_backend_dev_buffer_type(device)}
        address = self._base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if address:
            extra = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(device)
            while extra and extra[0]:
                self.layouts[self._base.ggml_backend_buft_name(extra[0]).decode()] = extra[0]
                extra = ctypes.cast(ctypes.addressof(extra.contents) + ctypes.sizeof(pointer), type(extra))

    def product(
        self,
        ggml_type: int,
        blocks: npt.NDArray[np.uint8],
        x: npt.NDArray[np.float32],
        layout: str = "CPU",
        threads: int = 1,
    ) -> Product:
        """Prepares `x @ w.T` for weights in `blocks` [rows, bytes of a row]."""
        return Product(self, ggml_type, blocks, x, layout, threads)


class Product:
    """A product that can be run many times."""

    def __init__(
        self,
        ggml: Ggml,
        ggml_type: int,
        blocks: npt.NDArray[np.uint8],
        x: npt.NDArray[np.float32],
        layout: str,
        threads: int,
    ) -> None:
        base, cpu = ggml._base, ggml._cpu
        assert blocks.flags.c_contiguous and x.flags.c_contiguous and x.dtype == np.float32
        self._ggml, self._threads, self.shape = ggml, threads, (len(x), len(blocks))
        params = _InitParams(1 << 20, None, True)
        self._contexts = [base.ggml_init(params) for _ in range(2)]
        weights = base.ggml_new_tensor_2d(self._contexts[0], ggml_type, x.shape[1], len(blocks))
        self._buffers = [base.ggml_backend_alloc_ctx_tensors_from_buft(self._contexts[0], ggml.layouts[layout])]
        activations = base.ggml_new_tensor_2d(self._contexts[1], 0, x.shape[1], len(x))
        self._result = base.ggml_mul_mat(self._contexts[1], weights, activations)
        self._graph = base.ggml_new_graph(self._contexts[1])
        base.ggml_build_forward_expand(self._graph, self._result)
        self._buffers.append(base.ggml_backend_alloc_ctx_tensors_from_buft(self._contexts[1], ggml.layouts["CPU"]))
        if not base.ggml_backend_dev_supports_op(ggml._device, self._result):
            self.close()
            raise LookupError(f"ggml does not keep this type in {layout}")
        base.ggml_backend_tensor_set(weights, blocks.ctypes.data, 0, blocks.nbytes)
        base.ggml_backend_tensor_set(activations, x.ctypes.data, 0, x.nbytes)
        self._set_threads = cpu.ggml_backend_cpu_set_n_threads

    def run(self) -> None:
        """Computes."""
        self._set_threads(self._ggml._backend, self._threads)
        status = self._ggml._base.ggml_backend_graph_compute(self._ggml._backend, self._graph)
        assert status == 0

    def result(self) -> npt.NDArray[np.float32]:
        """What the last run computed, [n, rows]."""
        out = np.empty(self.shape, np.float32)
        self._ggml._base.ggml_backend_tensor_get(self._result, out.ctypes.data, 0, out.nbytes)
        return out

    def close(self) -> None:
        """Gives the memory back."""
        for buffer in self._buffers:
            self._ggml._base.ggml_backend_buffer_free(buffer)
        for context in self._contexts:
            self._ggml._base.ggml_free(context)


def declare(function: Any, result: Any, arguments: list[Any]) -> None:
    function.restype, function.argtypes = result, arguments
