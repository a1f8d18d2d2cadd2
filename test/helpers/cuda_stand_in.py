"""Stand-ins for TensorRT and for the CUDA runtime of cuda-bindings, which behave as the real ones do on a GPU.

The GPU has memory of its own: its addresses lead nowhere for the CPU, and copies alone go between the two. What is put
into a stream runs when the stream is synchronised, so that results read too early are those of before. The engine runs
the ONNX model with ONNX Runtime on the memory of the GPU.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

GPU_NAME = "Orin (stand-in)"
_GPU_BASE = 0x7F_0000_0000_0000  # no process has memory there


class CudaError(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400


class CopyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


@dataclass
class Properties:
    name: bytes


@dataclass
class CudaStandIn:
    """`cuda.bindings.runtime` for machines with so many GPUs; each function returns an error and its results.

    Args:
        gpus: number of GPUs.
        memory: bytes of each.
    """

    gpus: int = 1
    memory: int = 2**30
    blocks: dict[int, Any] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)
    cudaMemcpyKind = CopyKind

    def __post_init__(self) -> None:
        self._addresses = itertools.count(_GPU_BASE, 2**24)
        self._handles = itertools.count(1)

    def cudaSetDevice(self, device: int) -> tuple[CudaError]:
        if not 0 <= device < self.gpus:
            return (CudaError.cudaErrorInvalidDevice,)
        self.used.append(device)
        return (CudaError.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[CudaError, Properties | None]:
        if not 0 <= device < self.gpus:
            return CudaError.cudaErrorInvalidDevice, None
        return CudaError.cudaSuccess, Properties(GPU_NAME.encode())

    def cudaMemGetInfo(self) -> tuple[CudaError, int, int]:
        taken = sum(len(block) for block in self.blocks.values())
        return CudaError.cudaSuccess, self.memory - taken, self.memory

    def cudaMalloc(self, size: int) -> tuple[CudaError, int | None]:
        _, free, _ = self.cudaMemGetInfo()
        if size > free:
            return CudaError.cudaErrorMemoryAllocation, None
        address = next(self._addresses)
        self.blocks[address] = bytearray(b"\xab" * size)  # not cleared, as on a GPU
        return CudaError.cudaSuccess, address

    def cudaFree(self, devPtr: int) -> tuple[CudaError]:
        found = self.blocks.pop(devPtr, None)
        return (CudaError.cudaErrorInvalidValue if found is None else CudaError.cudaSuccess,)

    def cudaMallocHost(self, size: int) -> tuple[CudaError, int]:
        memory = ctypes.create_string_buffer(size)
        self.pinned[ctypes.addressof(memory)] = memory
        return CudaError.cudaSuccess, ctypes.addressof(memory)

    def cudaFreeHost(self, ptr: int) -> tuple[CudaError]:
        found = self.pinned.pop(ptr, None)
        return (CudaError.cudaErrorInvalidValue if found is None else CudaError.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[CudaError, int]:
        handle = next(self._handles)
        self.streams[handle] = []
        return CudaError.cudaSuccess, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[CudaError]:
        del self.streams[stream]
        return (CudaError.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: CopyKind, stream: int) -> tuple[CudaError]:
        if stream not in self.streams:
            return (CudaError.cudaErrorInvalidResourceHandle,)
        to_gpu = kind is CopyKind.cudaMemcpyHostToDevice
        on_gpu, on_cpu = (dst, src) if to_gpu else (src, dst)
        block, memory = self.blocks.get(on_gpu), self.pinned.get(on_cpu)
        if block is None or memory is None or count > min(len(block), len(memory)):
            return (CudaError.cudaErrorInvalidValue,)

        def copy() -> None:
            if to_gpu:
                block[:count] = memory.raw[:count]
            else:
                ctypes.memmove(on_cpu, bytes(block[:count]), count)

        self.streams[stream].append(copy)
        return (CudaError.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[CudaError]:
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (CudaError.cudaSuccess,)

    def array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the float32 array at an address of the GPU, as the GPU sees it."""
        return np.frombuffer(self.blocks[address], np.float32).reshape(shape)


class TensorRtStandIn:
    """The module `tensorrt`, version 10, whose plans are ONNX models with their shapes.

    Args:
        cuda: the GPU that engines run on.
        dtype: type that engines say their tensors have; None for float32.
    """

    __version__ = "10.3.0"
    float32, float16 = "DataType.FLOAT", "DataType.HALF"

    class Logger:
        WARNING = 2

        def __init__(self, level: int) -> None:
            pass

    class BuilderFlag:
        FP16 = 1

    class NetworkDefinitionCreationFlag:
        pass

    def __init__(self, cuda: CudaStandIn, *, dtype: str | None = None, fails: bool = False) -> None:
        self.cuda, self.dtype, self.fails = cuda, dtype or self.float32, fails
        self.built: list[dict[str, Any]] = []

    def Runtime(self, logger: object) -> _Runtime:
        return _Runtime(self)

    def Builder(self, logger: object) -> _Builder:
        return _Builder(self)

    def OnnxParser(self, network: _Network, logger: object) -> _Parser:
        return _Parser(network)


@dataclass
class _Input:
    name: str


@dataclass
class _Network:
    data: bytes = b""
    inputs: list[_Input] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> _Input:
        return self.inputs[index]


class _Parser:
    num_errors = 0

    def __init__(self, network: _Network) -> None:
        self._network = network

    def parse(self, data: bytes) -> bool:
        self._network.data = data
        self._network.inputs = [_Input(value.name) for value in _session(data).get_inputs()]
        return True


class _Profile(dict[str, Any]):
    def set_shape(self, name: str, smallest: Any, usual: Any, largest: Any) -> None:
        assert smallest == usual == largest
        self[name] = usual


@dataclass
class _Config:
    flags: list[int] = field(default_factory=list)
    profiles: list[_Profile] = field(default_factory=list)

    def set_flag(self, flag: int) -> None:
        self.flags.append(flag)

    def add_optimization_profile(self, profile: _Profile) -> None:
        self.profiles.append(profile)


class _Builder:
    def __init__(self, trt: TensorRtStandIn) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> _Network:
        assert flags == 0, "TensorRT 10 takes no flag"
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> memoryview:
        (profile,) = config.profiles
        self._trt.built.append({"flags": config.flags, "shapes": dict(profile)})
        return memoryview(network.data)


class _Runtime:
    def __init__(self, trt: TensorRtStandIn) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine:
        return _Engine(self._trt, plan)


class _Engine:
    def __init__(self, trt: TensorRtStandIn, plan: bytes) -> None:
        self.trt, self.session = trt, _session(plan)
        self.inputs = [value.name for value in self.session.get_inputs()]
        self._names = [*(value.name for value in self.session.get_outputs()), *self.inputs]  # in no order of ours

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.trt.dtype

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        expected = next(value.shape for value in self._engine.session.get_inputs() if value.name == name)
        if tuple(shape)[1:] != tuple(expected)[1:]:
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape; -1 for lengths that the shapes of the inputs do not settle yet."""
        if name in self._shapes:
            return self._shapes[name]
        if set(self._engine.inputs) - set(self._shapes):
            return (-1,)
        found = self._run({n: np.zeros(shape, np.float32) for n, shape in self._shapes.items()})
        return tuple(found[name].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if address not in self._engine.trt.cuda.blocks:
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._engine.trt.cuda
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        if self._engine.trt.fails or set(names) != set(self._addresses) or stream_handle not in cuda.streams:
            return False

        def work() -> None:
            inputs = {n: cuda.array(self._addresses[n], self._shapes[n]).copy() for n in self._engine.inputs}
            for name, values in self._run(inputs).items():
                cuda.array(self._addresses[name], values.shape)[...] = values

        cuda.streams[stream_handle].append(work)
        return True

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [value.name for value in self._engine.session.get_outputs()]
        return dict(zip(names, self._engine.session.run(names, inputs), strict=True))


def _session(data: bytes) -> Any:
    from deal_core.runtime.backends.onnxruntime_backend import open_session

    return open_session(bytes(data))
