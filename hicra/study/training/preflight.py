"""Is this machine ready for a profile? Checked before hours are spent: `python -m hicra preflight`.

Each check says what it found and, where it refuses, what to change. None writes anything but what
`base_models.base_folder` has to make anyway.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from hicra.study.policy.base_models import base_folder, load_base
from hicra.study.policy.own_process import in_own_process

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hicra.errors import HicraError
from hicra.files import PACKAGE
from hicra.lexicon.lexicon import Lexicon
from hicra.study.problems.grading import grade
from hicra.study.problems.prompts import clean_problems, fitting, training_tasks
from hicra.study.profiles import Profile
from hicra.study.sources import MADE, set_title
from hicra.study.training.estimates import CARDS, SLOWER, memory_bytes, step_seconds
from hicra.study.training.settings import PACKAGES

LOCK = PACKAGE.parent / "requirements" / "lock.txt"
COMPARED = (*PACKAGES, "peft", "unsloth_zoo", "vllm", "torchvision")
# torch is in the pins alone, torchvision in the last
LOCKS = ("lock.txt", "pins.in", "gpu.txt", "overrides.in")
OPTIONAL = ("vllm", "torchvision")  # compared where they are installed
SAMPLED = 32  # completions, fewer where they are long
LONGEST = 1024  # tokens of one
TOKENS = 8 * LONGEST  # of all together: seconds on a GPU
PROMPTS = 1024  # looked at for their length
GB = 1e9
MISSING = "missing"


class Check(NamedTuple):
    """One finding. `remedy` is empty where all is well; `stops` is False for what a sample may miss."""

    name: str
    found: str
    remedy: str = ""
    stops: bool = True

    @property
    def verdict(self) -> str:
        if not self.remedy:
            return "ok"
        return "STOP" if self.stops else "note"


def preflight(profile: Profile) -> list[Check]:
    """`checks` in a process of its own: a notebook's kernel, alive beside training, holds no model."""
    return in_own_process(checks, profile)


def checks(profile: Profile) -> list[Check]:
    """Every check, in order; the ones that need the model come last.

    Raises HicraError with what was found and what to change, where the machine is not ready.
    """
    found = [check_versions(), check_device(profile)]
    _refuse(profile, found)  # before anything is fetched
    found += [check_problems(profile), check_gold(profile)]
    _refuse(profile, found)
    found += check_model(profile)
    _refuse(profile, found)
    return found


def _refuse(profile: Profile, found: list[Check]) -> None:
    wrong = [f"{c.name}: {c.found}; {c.remedy}" for c in found if c.verdict == "STOP"]
    if wrong:
        raise HicraError(f"not ready for {profile.name}. " + " ".join(wrong))


def check_versions() -> Check:
    """Installed packages against the locks."""
    wanted = {
        pin.name: pin.specifier
        for pin in _pins()
        if pin.name in OPTIONAL or pin.marker is None or pin.marker.evaluate({"extra": "study"})
    }
    found = {name: _version(name) for name in COMPARED if name in wanted}
    found = {name: v for name, v in found.items() if v != MISSING or name not in OPTIONAL}
    wrong = [f"{n} {v}, locked {wanted[n]}" for n, v in found.items() if not _fits(v, wanted[n])]
    return Check("versions", "; ".join(wrong) or "as locked", "install the lock: make study" if wrong else "")


def _pins() -> list[Requirement]:
    """Of the locks beside the package, or of an installed wheel, which carries the pins as an extra."""
    files = [path for name in LOCKS if (path := LOCK.with_name(name)).exists()]
    lines = [line for path in files for line in path.read_text().splitlines()] or requires("hicra") or []
    return [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]


def _fits(found: str, wanted: SpecifierSet) -> bool:
    return found != MISSING and wanted.contains(found.partition("+")[0])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def check_device(profile: Profile) -> Check:
    """The profile's dtype and quantisation against the device's abilities."""
    from hicra.study.policy import unsloth_models

    import torch

    if not torch.cuda.is_available():
        found = f"no GPU, {os.cpu_count()} cores"
        needs = profile.load_in_4bit or profile.vllm or profile.dtype == "float16"
        remedy = "4-bit, float16 and vllm need a GPU; set dtype to float32 and vllm to false" if needs else ""
        return Check("device", found, remedy)
    if profile.vllm and not unsloth_models.has_vllm():
        return Check("device", "no vLLM", "make cuda installs it; or set vllm to false")
    major, minor = torch.cuda.get_device_capability()
    found = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    if profile.dtype == "float32":
        kept = "bfloat16 mixed precision, not in float32 as on a CPU" if major >= 8 else "float32"
        found += f"; float32 weights are trained in {kept}"
    if profile.dtype == "bfloat16" and major < 8:
        return Check("device", found, "bfloat16 needs compute capability 8.0; set dtype to float16")
    return Check("device", found)


def check_problems(profile: Profile) -> Check:
    """Training problems that stand in a benchmark are left out; how many."""
    if profile.problem_set in MADE:
        return Check("problems", f"made by the {profile.problem_set}; held-out ones differ in their numbers")
    problems, report = clean_problems(profile)
    removed = str(report).splitlines()[0] if report else "no benchmark named to check against"
    return Check("problems", f"{len(problems)} in {set_title(profile.problem_set)}; {removed}")


def check_gold(profile: Profile) -> Check:
    """A boxed gold answer must verify, or every reward would be 0."""
    [task] = training_tasks(profile, 1, seed=0)
    result = grade([f"\\boxed{{{task.answer}}}"], [task.answer])[0]
    remedy = "" if result.reward else "the gold answers do not verify; choose another answer field"
    return Check("gold answer", f"{task.answer!r} is {result.reason}", remedy)


def check_model(profile: Profile) -> Iterator[Check]:
    """Memory, time, tokenizer, and what a few sampled completions look like."""
    from hicra.study.policy import unsloth_models

    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base_folder(profile))
    needed, free = memory_bytes(config, profile), unsloth_models.free_memory()
    short = "lower prompts_per_step, group_size or max_completion_length" if needed > free else ""
    yield Check("memory", f"about {needed / GB:.1f} GB needed, {free / GB:.1f} GB free", short)
    if short:
        return
    yield check_time(config, profile)
    model, tokenizer = load_base(profile, lora_rank=0, seed=0, trained=False)
    yield check_tokenizer(profile, tokenizer)
    yield check_template(profile, tokenizer)
    yield check_sampler(profile, model)
    yield from check_rollouts(profile, model, tokenizer)


def check_time(config, profile: Profile) -> Check:
    """How long a step may take, where the GPU is one whose data sheet is known."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    card = next((card for name, card in CARDS.items() if name in device), None)
    if card is None:
        return Check("time", f"no estimate for {device}")
    least = step_seconds(config, profile, card, profile.max_completion_length)
    span = f"{least:.0f} to {SLOWER * least:.0f} s"
    return Check("time", f"{span} a step where every completion reaches its limit (estimate)")


def check_sampler(profile: Profile, model) -> Check:
    """What a run samples with; the study's own sampler is faster than transformers'."""
    from hicra.study.policy.llama_sampler import refusal

    reason = refusal(model)
    others = "vLLM" if profile.vllm else f"transformers' generate, for {reason}"
    return Check("sampler", others if profile.vllm or reason else "the study's own")


def check_tokenizer(profile: Profile, tokenizer) -> Check:
    """End and padding must exist and differ; how many prompts are too long and will be left out."""
    end, pad = tokenizer.eos_token, tokenizer.pad_token
    if end is None or pad is None or end == pad:
        return Check("tokenizer", f"end {end!r}, padding {pad!r}", "set two different tokens in the base")
    tasks = training_tasks(profile, PROMPTS, seed=0)
    left_out = len(tasks) - len(fitting(tasks, tokenizer, profile.max_prompt_length))
    found = (
        f"end {end!r}, padding {pad!r}; {left_out} of {len(tasks)} prompts have more than "
        f"{profile.max_prompt_length} tokens and are left out"
    )
    many = left_out > 0.05 * len(tasks)
    return Check("tokenizer", found, "raise max_prompt_length" if many else "", stops=False)


def check_template(profile: Profile, tokenizer) -> Check:
    """Special tokens that the prompt template writes must be the tokenizer's own, not plain text."""
    written = re.findall(r"<\|[a-z_]+\|>", profile.prompt_template)
    unknown = sorted({mark for mark in written if len(tokenizer(mark)["input_ids"]) != 1})
    found = f"{len(set(written))} special tokens in the prompt template"
    own = (
        "the tokenizer has a chat template"
        if getattr(tokenizer, "chat_template", None)
        else "no chat template"
    )
    remedy = f"{', '.join(unknown)} is plain text to this tokenizer; write prompt_template in its own format"
    return Check("template", f"{found}; {own}", remedy if unknown else "")


def check_rollouts(profile: Profile, model, tokenizer) -> Iterator[Check]:
    """Sampled groups must differ in reward, must end, and must hold planning tokens."""
    from hicra.study.policy import generation, unsloth_models

    whole = profile.max_completion_length
    limit = min(whole, LONGEST)
    rows = min(SAMPLED, TOKENS // limit)
    size = min(profile.group_size, rows)
    tasks = [t for t in training_tasks(profile, rows // size, seed=0) for _ in range(size)]
    generate = generation.text_generator(
        model, tokenizer, max_new_tokens=limit, temperature=profile.temperature, seed=0, special=True
    )
    marks = tokenizer.convert_ids_to_tokens(unsloth_models.ends(model, tokenizer))
    completions = generate([task.prompt for task in tasks])
    parts = [split_end(completion, marks, tokenizer.pad_token) for completion in completions]
    texts, found_ends = zip(*parts, strict=True)
    cut = f"cut at {limit} of {whole} tokens" if limit < whole else ""
    yield check_rewards(profile, tasks, texts, size, cut)
    yield check_ends(texts, found_ends, marks)
    yield check_planning(profile, texts, tokenizer)


def check_rewards(profile: Profile, tasks: Sequence, texts: Sequence[str], size: int, cut: str) -> Check:
    """Groups of `size` completions of a task; where all of one have the same reward, it teaches nothing."""
    answers = [task.answer for task in tasks]
    rewards = [g.reward for g in grade(texts, answers, prefilled_think=profile.prefilled_think)]
    groups = [set(rewards[i : i + size]) for i in range(0, len(rewards), size)]
    flat = sum(len(values) == 1 for values in groups) / len(groups)
    hopeless = "no group differs in reward: an easier problem set, or a longer warm start"
    found = (
        f"{flat:.0%} of {len(groups)} groups have equal rewards; accuracy {sum(rewards) / len(rewards):.2f}"
    )
    told = f"{found}; {cut}" if cut else found
    return Check("rewards", told, hopeless if flat == 1 and not cut else "", stops=False)


def split_end(text: str, marks: Sequence[str], pad: str) -> tuple[str, str]:
    """A completion with its special tokens, as its text and the mark that ended it: "" where it was cut."""
    last = "|".join(map(re.escape, {*marks, pad}))
    tail = re.search(rf"({last})*\Z", text)
    end = re.match(last, tail[0])
    return text[: tail.start()], end[0] if end else ""


def check_ends(texts: Sequence[str], ends: Sequence[str], marks: Sequence[str]) -> Check:
    """How completions end, and how many go on behind an end that is written as text."""
    shares = [f"{name or 'the limit'!r} {n / len(ends):.0%}" for name, n in Counter(ends).most_common()]
    inside = sum(any(mark in text for mark in marks) for text in texts)
    found = f"by {', '.join(shares)}; {inside} of {len(texts)} hold {' or '.join(map(repr, marks))} inside"
    remedy = "they write it as text and go on: choose another prompt_template" if inside else ""
    return Check("ends", found, remedy, stops=False)


def check_planning(profile: Profile, texts: Sequence[str], tokenizer) -> Check:
    """Without planning tokens HICRA is GRPO."""
    from hicra.planning.tagger import PlanningTagger

    batch = tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="right")
    ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, T)
    share = PlanningTagger(Lexicon.load(profile.lexicon), tokenizer)(ids, mask).sum() / mask.sum()
    none = "HICRA would change nothing: choose another lexicon" if share == 0 else ""
    told = f"{share:.1%} of {int(mask.sum())} tokens ({profile.lexicon})"
    return Check("planning tokens", told, none, stops=False)
