"""Tests run offline, on the CPU, and away from whatever this shell is configured for."""

import os
import signal

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
}
for name in [name for name in os.environ if name.startswith(("SEARCHR1_", "MLFLOW_RUN", "MLFLOW_TRACKING"))]:
    del os.environ[name]

# A shell's background job ignores Ctrl-C, and so would every process the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
