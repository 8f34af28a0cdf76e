"""CUDA's driver library through ctypes: no packages, no compiler.

The kernel is PTX text, which the driver compiles: a loop of independent fused
multiply-adds, so that its speed is that of the multiprocessors that it may use.
"""

import ctypes
import time

MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
THREADS = 256
CHAINS = 8  # independent sums of a thread
UNROLLED = 4  # steps of each chain in one turn of the loop

MIB = 1 << 20


def ptx():
    chains = [f"%f{number}" for number in range(CHAINS)]
    step = "\n".join(f"    fma.rn.f32 {name}, {name}, %f20, %f21;" for name in chains)
    start = "\n".join(f"    add.f32 {name}, %f22, 0f{0x3F800000 + (number << 16):08X};" for number, name in enumerate(chains))
    total = "\n".join(f"    add.f32 %f23, %f23, {name};" for name in chains)
    return f""".version 7.0
.target sm_70
.address_size 64
.visible .entry work(.param .u64 out, .param .u32 turns)
{{
    .reg .pred %p<2>;
    .reg .f32 %f<24>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [turns];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.u32 %r5, %r3, %r4, %r2;
    cvt.rn.f32.u32 %f22, %r2;
    mov.f32 %f20, 0f3F7FF972;
    mov.f32 %f21, 0f3A83126F;
{start}
    mov.u32 %r6, 0;
LOOP:
{step}
{(chr(10) + step) * (UNROLLED - 1)}
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, %r1;
    @%p1 bra LOOP;
    mov.f32 %f23, 0f00000000;
{total}
    mul.wide.u32 %rd2, %r5, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.f32 [%rd3], %f23;
    ret;
}}
"""


class CudaError(Exception):
    def __init__(self, call, code, name):
        super().__init__(f"{call}: {name} ({code})")
        self.code = code


class Cuda:
    """One device, with a context."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        self.devices = count.value
        self.device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        self.context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), self.device)
        self.call("cuCtxSetCurrent", self.context)
        self.function = None
        self.blocks = 0

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(code, ctypes.byref(text))
            raise CudaError(name, code, (text.value or b"?").decode())

    def multiprocessors(self):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), MULTIPROCESSORS, self.device)
        return value.value

    def memory(self):
        """Free and total bytes, as this process is told."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size):
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def free(self, pointer):
        self.call("cuMemFree_v2", pointer)

    def fill(self, chunk, most):
        """Allocates chunks until it is refused or has `most` bytes; the chunks and the error."""
        chunks = []
        while len(chunks) * chunk < most:
            try:
                chunks.append(self.allocate(chunk))
            except CudaError as error:
                return chunks, error
        return chunks, None

    def prepare(self, blocks):
        module = ctypes.c_void_p()
        text = ptx().encode() + b"\0"
        self.call("cuModuleLoadData", ctypes.byref(module), text)
        self.function = ctypes.c_void_p()
        self.call("cuModuleGetFunction", ctypes.byref(self.function), module, b"work")
        self.blocks = blocks
        self.out = self.allocate(blocks * THREADS * 4)

    def launch(self, turns):
        out = ctypes.c_uint64(self.out.value)
        number = ctypes.c_uint32(turns)
        parameters = (ctypes.c_void_p * 2)(
            ctypes.cast(ctypes.byref(out), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(number), ctypes.c_void_p),
        )
        self.call("cuLaunchKernel", self.function, self.blocks, 1, 1, THREADS, 1, 1, 0, None, parameters, None)

    def finish(self):
        self.call("cuCtxSynchronize")

    def compute(self, seconds, blocks=132 * 16):
        """Billions of floating-point operations a second over about so many seconds."""
        if self.function is None:
            self.prepare(blocks)
        turns = 4000
        self.launch(turns)
        self.finish()
        began, launches = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            self.launch(turns)
            self.launch(turns)
            self.finish()
            launches += 2
        elapsed = time.monotonic() - began
        operations = 2 * CHAINS * UNROLLED * turns * THREADS * self.blocks * launches
        return operations / elapsed / 1e9
