"""The names of number formats in PyTorch's files and in safetensors, and
four-bit numbers."""

import ml_dtypes
import numpy as np

STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_, "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128, "UntypedStorage": np.uint8}
ML_DTYPES = {name: getattr(ml_dtypes, name) for name in (
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn")}
FLOAT4 = np.dtype(ml_dtypes.float4_e2m1fn)  # one number a byte here, two a byte in files
TORCH = {name: getattr(np, name) for name in (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32",
    "uint64",
    "complex64", "complex128")}
TORCH |= {name: dtype for name, dtype in ML_DTYPES.items() if name != "float4_e2m1fn"}
TORCH |= {"bool": np.bool_, "float4_e2m1fn_x2": ml_dtypes.float4_e2m1fn}
SAFETENSORS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64,
    "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_, "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F4": ml_dtypes.float4_e2m1fn}


def unpack_float4(packed: np.ndarray) -> np.ndarray:
    """(..., n) bytes -> (..., 2n) numbers: the low four bits come first, as in PyTorch's
    float4_e2m1fn_x2."""
    packed = np.atleast_1d(packed)
    pairs = np.stack((packed & 15, packed >> 4), axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1]).view(FLOAT4)
