"""Tests only: lets verl 0.9.1 run where there is no accelerator. Never offer it to users as a backend.

``VERL_USE_EXTERNAL_MODULES=verlcpu VERL_PLATFORM=cpu VERL_ENGINE_DEVICE=cuda`` loads it in every process. It registers
a platform named ``cpu`` (gloo; Ray's resource is called GPU, since verl counts only GPUs and NPUs), a rollout server
that decodes with Hugging Face (``verlcpu_rollout.py``), and replaces one function: verl would ask torch for the
backends "cpu:gloo,cpu:gloo", which it refuses. A reference model would be offloaded to pinned memory, which needs an
accelerator: it stays where it is. Registries of verl that are used here are private: pin verl exactly.
"""

import os
import types
from contextlib import nullcontext

import torch
import torch.distributed.fsdp
import verl.utils.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplicaRegistry

torch.set_num_threads(1)

ROLLOUT = "hfcpu"


class _DeviceModule(types.ModuleType):
    """Answers what torch.cuda would be asked; whatever has no meaning here is 0."""

    ANSWERS = {
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "cpu",
        "get_rng_state": torch.get_rng_state,
        "is_available": lambda: True,
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
        "mem_get_info": lambda *_: (2**33, 2**34),
        "set_rng_state": torch.set_rng_state,
    }

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.ANSWERS.get(name) or getattr(torch.cpu, name, lambda *args, **kwargs: 0)


DEVICE_MODULE = _DeviceModule("verlcpu_device")


def _always(value):
    return lambda self, *args, **kwargs: value


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """A single device without memory of its own."""

    device_name = property(_always("cpu"))
    vendor_name = property(_always("cpu"))
    device_module = property(_always(DEVICE_MODULE))
    communication_backend_name = _always("gloo")
    current_device = _always("cpu")
    device_count = _always(1)
    empty_cache = set_allocator_settings = set_device = synchronize = _always(None)
    cudart = profiler_start = profiler_stop = _always(None)
    get_device_capability = _always((None, None))
    is_available = _always(True)
    is_ipc_supported = _always(False)
    nvtx_range = _always(nullcontext())
    ray_noset_envvars = _always(["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"])
    ray_resource_name = _always("GPU")
    visible_devices_envvar = _always("CUDA_VISIBLE_DEVICES")

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed


def _init_process_group(*args, **kwargs):
    if torch.distributed.is_initialized():
        return
    rank, size = int(os.getenv("RANK", "0")), int(os.getenv("WORLD_SIZE", "1"))
    torch.distributed.init_process_group("gloo", os.getenv("DIST_INIT_METHOD"), rank=rank, world_size=size)


def _load_replica():
    from verlcpu_rollout import Replica

    return Replica


verl.utils.distributed.initialize_global_process_group_ray = _init_process_group
torch.distributed.fsdp.CPUOffloadPolicy = lambda **_: torch.distributed.fsdp.OffloadPolicy()
_ROLLOUT_REGISTRY[(ROLLOUT, "async")] = "verlcpu_rollout.Adapter"
RolloutReplicaRegistry.register(ROLLOUT, _load_replica)
