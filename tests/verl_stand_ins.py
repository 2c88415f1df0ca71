"""What verl cannot do without a GPU, for `make verl` alone: a device, a process group, a rollout engine, a reward.

verl has no CPU platform, registers its FSDP engine for CUDA and NPU, asks for gloo in words that torch refuses, and
samples with vLLM, SGLang or TensorRT-LLM. Loaded into every process of the cluster by VERL_USE_EXTERNAL_MODULES;
everything else that runs is verl's own. So NCCL, CUDA IPC, sleep and wake of the engines are not tested.
"""

import os
from contextlib import nullcontext
from types import ModuleType

import ray
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _Device(ModuleType):
    """In place of torch.cuda: torch.cpu, and 0 from all that it lacks."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name, lambda *_, **__: 0)


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    device_name, vendor_name, device_module = "cpu", "none", _Device("cpu_device")
    device_module.current_device, device_module.is_available = lambda: "cpu", lambda: False
    device_module.get_rng_state, device_module.set_rng_state = torch.get_rng_state, torch.set_rng_state
    device_module.mem_get_info, device_module.get_device_name = lambda *_: (0, 1), lambda *_: "CPU"

    def _nothing(self, *_):
        return None

    set_device = synchronize = set_allocator_settings = empty_cache = profiler_start = profiler_stop = (
        cudart
    ) = _nothing

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg):
        return nullcontext()

    def ray_resource_name(self):
        return "GPU"  # the test's nodes say that they have one

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False


from verl.workers import engine_workers  # noqa: E402  (these ask for the platform)
from verl.workers.engine.base import EngineRegistry  # noqa: E402
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead  # noqa: E402
from verl.workers.rollout import base as rollouts  # noqa: E402
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput  # noqa: E402

EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device="cpu")(FSDPEngineWithLMHead)


def _join_gloo(timeout_second=None):
    if not torch.distributed.is_initialized():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        where = os.environ.get("DIST_INIT_METHOD")
        torch.distributed.init_process_group("gloo", rank=rank, world_size=size, init_method=where)


engine_workers.initialize_global_process_group_ray = _join_gloo  # verl's asks for "cpu:gloo,cpu:gloo"


@ray.remote(num_cpus=0)
class Server:
    """A rollout server: transformers' generate, with the weights and the step that it was last sent."""

    def __init__(self, path):
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.step = None

    async def load(self, weights, step):
        unexpected = self.model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unexpected, unexpected
        self.step = step

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        prompt = torch.tensor([list(prompt_ids)])  # (1, P)
        options = {"do_sample": True, "top_k": 0, "return_dict_in_generate": True, "output_logits": True}
        done = self.model.generate(prompt, max_new_tokens=sampling_params.get("max_tokens") or 24, **options)
        ids = done.sequences[0, prompt.shape[1] :]  # (T,)
        logps = torch.cat(done.logits).log_softmax(-1).gather(1, ids[:, None])[:, 0]  # (T,)
        extra = {"global_steps": self.step}
        return TokenOutput(
            token_ids=ids.tolist(), log_probs=logps.tolist(), stop_reason="completed", extra_fields=extra
        )

    async def _nothing(self, *_, **__):
        return None

    sleep = wake_up = clear_kv_cache = abort_all_requests = resume_generation = start_profile = (
        stop_profile
    ) = _nothing


class Replica(RolloutReplica):
    async def launch_servers(self):
        self._server_handle = Server.options(name=f"server_{self.replica_rank}").remote(
            self.model_config.path
        )
        self._server_address, self.servers = f"cpu:{self.replica_rank}", [self._server_handle]


class Adapter(rollouts.BaseRollout):
    """The worker's side of a server: sends it the weights."""

    async def resume(self, tags):
        return None

    async def release(self):
        return None

    async def update_weights(self, weights, global_steps=None, wire_format="named_tensors", **_):
        whole = {name: getattr(w, "full_tensor", lambda w=w: w)().detach().clone() for name, w in weights}
        server = ray.get_actor(f"server_{os.environ['RANK']}")
        await server.load.remote(whole, global_steps)


rollouts._ROLLOUT_REGISTRY[("cpu", "async")] = f"{__name__}.Adapter"
RolloutReplicaRegistry.register("cpu", lambda: Replica)


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """A reward that differs within groups from the first step on."""
    return sum(map(ord, solution_str)) % 97 / 97
