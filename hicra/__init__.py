"""The open reproduction of HICRA (Wang et al., arXiv 2509.03646).

What other people's trainers import: the lexicon, the planning mask and the credit.
"""

from hicra.credit import hicra_advantages
from hicra.lexicon.build import build_lexicon
from hicra.lexicon.lexicon import Lexicon
from hicra.planning.tagger import PlanningTagger

__all__ = ["Lexicon", "PlanningTagger", "build_lexicon", "hicra_advantages"]
