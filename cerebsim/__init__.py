"""cerebsim: the cerebellum as a learning machine, and how it can be fooled.

The whole public API on one screen. Importing it loads torch, numpy and safetensors only.
"""

from .attacks import FGSM, PGD, AttackResult, Noise
from .autoattack import AutoAttack
from .backends import use_backend
from .config import CircuitConfig, LearningConfig, preset
from .data import Data, Pictures, load_data
from .errors import (
    ArgumentError,
    BackendUnavailable,
    CerebsimError,
    CheckpointError,
    DataNotFound,
)
from .evaluation import Evaluation, accuracy, evaluate
from .layers import Centring, GranuleLayer, Readout
from .learning import History
from .model import Cerebellum
from .square import Square
from .suites import attack_suite

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "PGD",
    "ArgumentError",
    "AttackResult",
    "AutoAttack",
    "BackendUnavailable",
    "Centring",
    "Cerebellum",
    "CerebsimError",
    "CheckpointError",
    "CircuitConfig",
    "Data",
    "DataNotFound",
    "Evaluation",
    "GranuleLayer",
    "History",
    "LearningConfig",
    "Noise",
    "Pictures",
    "Readout",
    "Square",
    "accuracy",
    "attack_suite",
    "evaluate",
    "load_data",
    "preset",
    "use_backend",
]
