"""One run: its plan in, a finished run folder out.

Called in a process of its own, one thread each, so that a run's numbers do not depend on what else the
machine does, and several runs share the cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from hicra.study.policy.base_models import base_folder, load_base
from hicra.study.policy.model_card import model_card

from hicra.files import folder_sha256
from hicra.study.problems.prompts import explainer, fitting, held_out_tasks, problem_of_row
from hicra.study.problems.worlds import WORLDS, World
from hicra.study.profiles import DEFAULTS, Profile
from hicra.study.record import checkpoints
from hicra.study.record.run_folder import Follower, RunFolder
from hicra.study.training.plan import RunPlan
from hicra.study.training.process import certain_end, check_share
from hicra.study.training.settings import PACKAGES


def method_settings(profile: Profile, arm: str) -> dict:
    """What decides an update beside the optimizer: the paper's GRPO, with A = R - mean of the group.

    All of it is passed to the trainer, whatever its default: Unsloth's differ from TRL's.
    """
    return {
        "scale_rewards": "none",  # no division by the standard deviation
        "multi_objective_aggregation": "sum_then_normalize",
        "loss_type": "dapo",  # the mean over the batch's tokens
        "importance_sampling_level": "token",
        "num_iterations": 1,
        "epsilon": profile.epsilon_low,
        "epsilon_high": profile.epsilon_high,
        "delta": None,
        "beta": profile.kl_beta,
        "entropy_coef": profile.entropy_coef if arm == "entropy_reg" else 0.0,
        "use_adaptive_entropy": False,
        "top_entropy_quantile": 1.0,
        "mask_truncated_completions": False,  # a truncated completion is a failure, and learned from
        "off_policy_mask_threshold": None,
        # vLLM's probabilities against the trainer's; by token, for a sequence's product leaves long ones out.
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_min": None,
        "vllm_importance_sampling_clip_max": 3.0,
        "router_aux_loss_coef": 0.0,
        "temperature": profile.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "disable_dropout": False,
    }


def grpo_config(
    profile: Profile,
    arm: str,
    seed: int,
    out: Path,
    *,
    never: Sequence[int] = (),
    ends: Sequence[int] = (),
):
    """TRL's configuration of a run: the method's settings, the profile's sizes and optimizer.

    `never`: ids that are not sampled, such as a picture's, which a completion cannot hold. `ends`: ids that
    end a completion, which vLLM must be told.
    """
    from hicra.study.policy import unsloth_models

    from trl import GRPOConfig

    rows = profile.prompts_per_step * profile.group_size // profile.processes
    at_once = profile.rows_per_pass or rows
    return GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=rows // at_once,
        num_generations=profile.group_size,
        max_completion_length=profile.max_completion_length,
        **method_settings(profile, arm),
        generation_kwargs=_sampling(never, ends, profile.vllm),
        max_steps=profile.steps,
        optim="adamw_torch_fused",  # named, because Unsloth's default on a GPU is another
        learning_rate=profile.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=profile.warmup_steps,
        adam_beta2=profile.adam_beta2,
        max_grad_norm=profile.max_grad_norm,
        weight_decay=0.0,
        shuffle_dataset=False,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the recorder wants to see them
        save_steps=profile.checkpoint_every,
        save_total_limit=checkpoints.KEPT,
        report_to=[profile.report_to] if profile.report_to else [],
        disable_tqdm=True,
        use_vllm=profile.vllm,
        vllm_mode="colocate",
        use_cpu=not unsloth_models.has_gpu(),
        bf16=profile.dtype == "bfloat16",
        fp16=profile.dtype == "float16",
        gradient_checkpointing=False,  # set by Unsloth
        dataloader_pin_memory=False,
        ddp_backend="gloo" if profile.processes > 1 and not unsloth_models.has_gpu() else None,
        ddp_timeout=24 * 3600,  # the others wait while one process evaluates
        seed=seed,
    )


def _sampling(never: Sequence[int], ends: Sequence[int], vllm: bool) -> dict:
    """Sampling options as vLLM takes them, or transformers, to which TRL hands a model's ends itself."""
    if vllm:
        wanted = {"logit_bias": dict.fromkeys(never, -100.0), "stop_token_ids": list(ends)}
    else:
        wanted = {"suppress_tokens": list(never)}
    return {name: value for name, value in wanted.items() if value}


def train(plan: RunPlan, folder: Path | str) -> RunFolder:
    """Make the planned run in `folder`, going on from its last checkpoint where there is one.

    A finished run made with the same settings is returned as it is. Raises RunError for a folder made with
    other settings or being written by another process, before anything is written. A process that shares
    the run with others (torch's WORLD_SIZE) does not return: it ends here.
    """
    run = _own_share(plan.profile, folder)
    plan.check(run)
    if run.finished:
        return run
    with run.lock(), certain_end(shared=plan.profile.processes > 1):
        weights = folder_sha256(base_folder(plan.profile), "*.safetensors")
        run.open(
            plan.settings,
            DEFAULTS,
            condition=plan.condition,
            base_weights_sha256=weights,
            versions={p: version(p) for p in PACKAGES},
            method=method_settings(plan.profile, plan.arm),
            world=plan.profile.world,
        )
        run.same("base_weights_sha256", weights)
        started = time.monotonic()
        trainer = _make_trainer(plan, run)
        checkpoint = checkpoints.last_checkpoint(run.path / "checkpoints", run.add_notice)
        run.begin(
            trainer.sampler,
            resumed=checkpoint is not None,
            training_pass=trainer.training_pass,
            float32_products=trainer.float32_products,
        )
        run.rewind(checkpoints.step_of(checkpoint) if checkpoint else 0)
        if notice := mixed_precision(plan.profile, trainer.args):
            run.add_notice(notice)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        _finish(trainer, plan, run, time.monotonic() - started)
    return run


def mixed_precision(profile: Profile, args) -> str:
    """What a record says of float32 weights that Unsloth trains in mixed precision: "" where it does not."""
    if profile.dtype != "float32" or not (args.bf16 or args.fp16):
        return ""
    return f"float32 weights, trained in {'bfloat16' if args.bf16 else 'float16'} mixed precision"


def _own_share(profile: Profile, folder: Path | str) -> RunFolder:
    """The run's folder, as this process may use it. RunError where processes do not share as planned."""
    check_share(profile.processes)
    return RunFolder(folder) if os.environ.get("RANK", "0") == "0" else Follower(folder)


def _finish(trainer, plan: RunPlan, run: RunFolder, seconds: float) -> None:
    """Write the policy and its card, score it a last time, and close the record."""
    trainer.save_model(str(run.path / "policy"))
    final = None
    if trainer.is_world_process_zero():
        final = _final(plan, trainer)
        run.keep("policy/README.md", model_card(run))
    run.finish(
        wall_seconds=round(seconds, 1),
        policy_sha256=folder_sha256(run.path / "policy", "*.safetensors"),
        **({"final": final} if final else {}),
        precision={name: getattr(trainer.args, name) for name in ("bf16", "fp16")},
    )
    trainer.accelerator.wait_for_everyone()  # the first to end must not take a message with it


def _make_trainer(plan: RunPlan, run: RunFolder):
    from hicra.study.policy import unsloth_models

    from datasets import Dataset
    from trl import GRPOTrainer

    from hicra.planning.tagger import PlanningTagger
    from hicra.study.training.cpu_step import CpuStepMixin, step_statistics
    from hicra.study.training.recorder import Recorder
    from hicra.study.training.reward import VerifiedAnswer
    from hicra.study.training.study_trainer import RecordCallback, SealCallback, StudyMixin

    profile, seed = plan.profile, plan.seed
    world = WORLDS.get(profile.problem_set)
    model, tokenizer = load_base(profile, lora_rank=profile.lora_rank, seed=seed, vllm=profile.vllm)
    ends = unsloth_models.ends(model, tokenizer)
    recorder = Recorder(run)
    score = _evaluation(
        plan, model, tokenizer, temperature=profile.eval_temperature, samples=profile.eval_samples
    )
    StudyTrainer = type("StudyTrainer", (StudyMixin, CpuStepMixin, GRPOTrainer), {})
    return StudyTrainer(
        model=model,
        processing_class=tokenizer,
        args=grpo_config(
            profile,
            plan.arm,
            seed,
            run.path / "checkpoints",
            never=unsloth_models.picture_tokens(model),
            ends=ends,
        ),
        train_dataset=Dataset.from_list(_short_rows(plan, tokenizer, run)),
        callbacks=[RecordCallback(recorder, score, profile.eval_every), SealCallback()],
        plan=plan,
        planning_tagger=_credit_tagger(plan, tokenizer),
        observed_tagger=PlanningTagger(plan.observed, tokenizer),
        statistics=partial(
            step_statistics, temperature=profile.temperature, rows=profile.rows_per_pass or 64
        ),
        reward=VerifiedAnswer(
            group_size=profile.group_size,
            ends=ends,
            prefilled_think=profile.prefilled_think,
            explain=partial(_explain, world) if world else None,
            count=partial(_choices, world) if world else None,
        ),
        recorder=recorder,
    )


def _credit_tagger(plan: RunPlan, tokenizer):
    """What marks tokens for credit."""
    from hicra.planning.tagger import PlanningTagger, SpanTagger

    if plan.credited:
        return PlanningTagger(plan.credited, tokenizer)
    spans_of = WORLDS[plan.profile.problem_set].true_spans
    return SpanTagger(lambda text: [span[:2] for span in spans_of(text)], tokenizer)


def _explain(world: World, problem: str, completion: str) -> str:
    """The kind of a failure, by a row's column `problem`."""
    return world.explain_failure(problem_of_row(problem), completion).kind


def _choices(world: World, problems: list[str], completions: list[str], right: list[bool]) -> dict:
    return world.choices([problem_of_row(problem) for problem in problems], completions, right)


def _short_rows(plan: RunPlan, tokenizer, run: RunFolder) -> list[dict]:
    """The run's prompts without those that are too long, which the manifest counts."""
    longest = plan.profile.max_prompt_length
    short = fitting(plan.tasks, tokenizer, longest)
    if left_out := len(plan.tasks) - len(short):
        run.add_notice(f"{left_out} prompts over max_prompt_length={longest} left out")
    return [task.row() for task in short]


def _final(plan: RunPlan, trainer) -> list[dict]:
    """The policy's last scores, of many samples, at temperature 1 and at the benchmarks'."""
    profile = plan.profile
    if not profile.final_samples:
        return []
    score = partial(_evaluation, plan, trainer.model, trainer.tokenizer, samples=profile.final_samples)
    temperatures = (1.0, profile.benchmark_temperature)
    return [{"temperature": t, **score(temperature=t)()} for t in dict.fromkeys(temperatures)]


def _evaluation(plan: RunPlan, model, tokenizer, *, temperature: float, samples: int) -> Callable[[], dict]:
    """A function that scores the policy as it is on the fixed held-out problems."""
    from hicra.study.policy import generation
    from hicra.study.policy.evaluation import evaluate

    profile = plan.profile
    generate = generation.policy_generator(
        model,
        tokenizer,
        max_new_tokens=profile.max_completion_length,
        temperature=temperature,
        seed=plan.seed,
    )
    return partial(
        evaluate,
        generate,
        fitting(held_out_tasks(profile), tokenizer, profile.max_prompt_length),
        samples=samples,
        prefilled_think=profile.prefilled_think,
        explain=explainer(profile),
        length=lambda text: len(tokenizer(text)["input_ids"]),
    )
