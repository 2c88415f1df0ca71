"""One run: profile, arm and seed in, a finished run folder out.

Called in a process of its own (`python -m hicra train`), one thread each, so that a run's numbers do
not depend on what else the machine does, and several runs share the cores.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from hicra.study.policy.base_models import base_folder, load_base
from hicra.study.policy.model_card import model_card

from hicra.errors import HicraError
from hicra.files import data_root, folder_sha256, sha256, write_atomic
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.prompts import Task, explainer, fitting, held_out_tasks, training_tasks
from hicra.study.problems.sandbox import SandboxProblem
from hicra.study.problems.sandbox_truth import explain_failure, true_spans
from hicra.study.profiles import ARMS, DEFAULTS, Profile
from hicra.study.record import checkpoints
from hicra.study.record.run_folder import Follower, RunError, RunFolder

PACKAGES = ("torch", "transformers", "trl", "unsloth", "numpy")
# Settings that change a run's cost or keeping, not its numbers.
# Benchmarks act through the problems that are left, whose hash counts.
NOT_DECISIVE = (
    "seeds",
    "checkpoint_every",
    "rollouts_kept",
    "gradient_checkpointing",
    "benchmarks",
    "benchmark_temperature",
    "allow_contamination",
    "report_to",
)
LEXICON = ("lexicon_rollouts", "lexicon_clusters", "lexicon_min_df")  # the lexicon's hash counts


def explain_row(row: dict, completion: str):
    """`explain_failure` for a problem as it stands in a data set's column."""
    return explain_failure(SandboxProblem(**{**row, "numbers": tuple(row["numbers"])}), completion)


def training_rows(profile: Profile, seed: int) -> list[dict]:
    """The run's prompts in order; the seed decides them, so arms of one seed see the same."""
    return [task.row() for task in _run_tasks(profile, seed)]


def _run_tasks(profile: Profile, seed: int) -> list[Task]:
    return training_tasks(profile, profile.steps * profile.prompts_per_step, seed)


def _base_sha256(profile: Profile) -> str:
    """Of the weights where they are the study's own; what is made or fetched is known by its name."""
    folder = data_root() / profile.base
    return folder_sha256(folder, "*.safetensors") if folder.exists() else sha256(profile.base)


def credit_lexicon(profile: Profile, seed: int) -> Lexicon | None:
    """The lexicon that marks tokens for credit; None for the oracle, which knows the true spans."""
    if profile.credit_lexicon == "oracle":
        return None
    same = profile.credit_lexicon == "same"
    lexicon = Lexicon.load(profile.lexicon if same else profile.credit_lexicon)
    return lexicon.drop(profile.credit_drop, seed) if profile.credit_drop else lexicon


def run_settings(profile: Profile, arm: str, seed: int) -> dict:
    """What decides the run's numbers; a folder made with other settings is refused."""
    if arm not in ARMS:
        raise HicraError(f"unknown arm {arm!r}; choose one of: {', '.join(ARMS)}")
    credited = credit_lexicon(profile, seed)
    kept = {k: v for k, v in profile.settings().items() if k not in NOT_DECISIVE + LEXICON}
    return {
        **kept,
        "arm": arm,
        "seed": seed,
        "lexicon_sha256": Lexicon.load(profile.lexicon).sha256,
        "credit_sha256": credited.sha256 if credited else "oracle",
        "base_sha256": _base_sha256(profile),
        "prompts_sha256": sha256(json.dumps(training_rows(profile, seed))),
    }


def grpo_config(profile: Profile, arm: str, seed: int, out: Path):
    """TRL's configuration of the paper's GRPO: no division by std, clip-higher, token mean, no KL."""
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
        temperature=profile.temperature,
        scale_rewards="none",  # method: A = R - mean, no std
        loss_type="dapo",
        epsilon=profile.epsilon_low,
        epsilon_high=profile.epsilon_high,
        beta=profile.kl_beta,
        entropy_coef=profile.entropy_coef if arm == "entropy_reg" else 0.0,
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
        gradient_checkpointing=False,  # the engine's affair
        dataloader_pin_memory=False,
        ddp_backend="gloo" if profile.processes > 1 and not unsloth_models.has_gpu() else None,
        ddp_timeout=24 * 3600,  # the others wait while one process evaluates
        seed=seed,
    )


def train(profile: Profile, arm: str, seed: int, folder: Path | str) -> RunFolder:
    """Train one arm and seed into `folder`, resuming from its last checkpoint where there is one.

    A finished run made with the same settings is returned as it is. Raises RunError for a folder
    made with other settings or being written by another process, ValueError for an unknown arm; all
    before anything is written.
    """
    world, rank = (int(os.environ.get(name, one)) for name, one in (("WORLD_SIZE", "1"), ("RANK", "0")))
    if world != profile.processes:
        raise RunError(
            f"{world} processes were started for a run with processes={profile.processes}; "
            "start runs by hicra.study.launch or notebooks, or set processes"
        )
    run = RunFolder(folder) if rank == 0 else Follower(folder)
    settings = run_settings(profile, arm, seed)
    run.check(settings, DEFAULTS)
    if run.finished:
        return run
    with run.lock():
        weights = folder_sha256(base_folder(profile), "*.safetensors")
        run.open(
            settings,
            DEFAULTS,
            base_weights_sha256=weights,
            versions={p: version(p) for p in PACKAGES},
            world=profile.world,
        )
        run.same("base_weights_sha256", weights)
        started = time.monotonic()
        trainer = _make_trainer(profile, arm, seed, run)
        checkpoint = checkpoints.last_checkpoint(run.path / "checkpoints")
        run.rewind(checkpoints.step_of(checkpoint) if checkpoint else 0)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model(str(run.path / "policy"))
        if rank == 0:
            write_atomic(run.path / "policy" / "README.md", model_card(run))
        run.finish(
            wall_seconds=round(time.monotonic() - started, 1),
            policy_sha256=folder_sha256(run.path / "policy", "*.safetensors"),
            precision={name: getattr(trainer.args, name) for name in ("bf16", "fp16")},
        )
        trainer.accelerator.wait_for_everyone()  # a process group left to the exit may abort one of them
        trainer.accelerator.end_training()
    return run


def _taggers(profile: Profile, seed: int, tokenizer) -> dict:
    """What marks tokens for credit, and what marks them for the record."""
    from hicra.planning.tagger import PlanningTagger, SpanTagger

    credited = credit_lexicon(profile, seed)
    if credited is None:
        oracle = SpanTagger(lambda text: [span[:2] for span in true_spans(text)], tokenizer)
    return {
        "planning_tagger": PlanningTagger(credited, tokenizer) if credited else oracle,
        "observed_tagger": PlanningTagger(Lexicon.load(profile.lexicon), tokenizer),
    }


def _evaluation(profile: Profile, seed: int, model, tokenizer) -> Callable[[], dict]:
    """A function that scores the policy as it is on the fixed held-out problems."""
    from hicra.study.policy import generation
    from hicra.study.policy.evaluation import evaluate

    generate = generation.policy_generator(
        model,
        tokenizer,
        max_new_tokens=profile.max_completion_length,
        temperature=profile.eval_temperature,
        seed=seed,
    )
    return partial(
        evaluate,
        generate,
        fitting(held_out_tasks(profile), tokenizer, profile.max_prompt_length),
        samples=profile.eval_samples,
        prefilled_think=profile.prefilled_think,
        explain=explainer(profile),
        length=lambda text: len(tokenizer(text)["input_ids"]),
    )


def _short_rows(profile: Profile, seed: int, tokenizer, run: RunFolder) -> list[dict]:
    """The run's prompts without those that are too long, which the manifest counts."""
    tasks = _run_tasks(profile, seed)
    short = fitting(tasks, tokenizer, profile.max_prompt_length)
    if left_out := len(tasks) - len(short):
        run.add_notice(f"{left_out} prompts over max_prompt_length={profile.max_prompt_length} left out")
    return [task.row() for task in short]


def _make_trainer(profile: Profile, arm: str, seed: int, run: RunFolder):
    from datasets import Dataset
    from trl import GRPOTrainer

    from hicra.dynamics.token_statistics import token_statistics
    from hicra.study.training.recorder import Recorder
    from hicra.study.training.study_trainer import RecordCallback, SealCallback, StudyMixin

    model, tokenizer = load_base(profile, lora_rank=profile.lora_rank, seed=seed, vllm=profile.vllm)
    rows = _short_rows(profile, seed, tokenizer, run)
    recorder = Recorder(
        run,
        lexicon=Lexicon.load(profile.lexicon),
        tokenizer=tokenizer,
        temperature=profile.temperature,
        prefilled_think=profile.prefilled_think,
        statistics=partial(token_statistics, rows=profile.rows_per_pass or 64),
        explain=explain_row if explainer(profile) else None,
        group_size=profile.group_size,
        rollouts_kept=profile.rollouts_kept,
    )
    score = _evaluation(profile, seed, model, tokenizer)
    StudyTrainer = type("StudyTrainer", (StudyMixin, GRPOTrainer), {})
    return StudyTrainer(
        model=model,
        processing_class=tokenizer,
        args=grpo_config(profile, arm, seed, run.path / "checkpoints"),
        train_dataset=Dataset.from_list(rows),
        reward_funcs=recorder,
        callbacks=[RecordCallback(recorder, score, profile.eval_every), SealCallback()],
        alpha=profile.alpha,
        arm=arm,
        high_entropy_share=profile.high_entropy_share,
        recorder=recorder,
        **_taggers(profile, seed, tokenizer),
    )
