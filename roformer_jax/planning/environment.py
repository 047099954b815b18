"""What has to be set before JAX is loaded, for compilers of devices that are not there."""

import os
import sys
from pathlib import Path

AOT = Path(sys.prefix) / "aot"  # where `make test` puts the compilers
SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # an accelerator of this machine stays free
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # of this machine; the topology names the one that is compiled for
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def prepare_compilers(*, gpu: bool) -> None:
    """Let JAX find the compiler of TPUs or of GPUs; to be called before it is loaded."""
    os.environ |= SETTINGS
    libtpu = AOT / "libtpu" / "libtpu.so"
    if gpu:
        sys.path.append(str(AOT))
    elif libtpu.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(libtpu))
