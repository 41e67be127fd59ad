"""Re-ranking: candidate lists, four re-rankers behind one interface, their training and their judging."""

from kar.model.rerank.base import ListRanker, Reranker, Seen, Shape
from kar.model.rerank.dlcm import DLCM
from kar.model.rerank.mir import MIR
from kar.model.rerank.prm import PRM
from kar.model.rerank.setrank import SetRank

RERANKERS: dict[str, type[Reranker]] = {"dlcm": DLCM, "prm": PRM, "setrank": SetRank, "mir": MIR}

__all__ = ["DLCM", "MIR", "PRM", "RERANKERS", "ListRanker", "Reranker", "Seen", "SetRank", "Shape"]
