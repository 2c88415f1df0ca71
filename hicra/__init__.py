"""The open reproduction of HICRA (Wang et al., arXiv 2509.03646).

What other people's trainers and analyses import: the lexicon, the planning mask and the credit. Each name is
loaded when it is first used, so that importing hicra costs nothing and text needs no torch.
"""

from importlib import import_module

_HOME = {
    "Lexicon": "hicra.lexicon.lexicon",
    "PlanningTagger": "hicra.planning.tagger",
    "build_lexicon": "hicra.lexicon.build",
    "hicra_advantages": "hicra.credit",
    "measure": "hicra.dynamics.measure",
}
__all__ = ["Lexicon", "PlanningTagger", "build_lexicon", "hicra_advantages", "measure"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'hicra' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
