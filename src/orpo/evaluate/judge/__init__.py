"""A judge that can be trusted as far as it has been tested: both orders, canaries, intervals."""

from orpo.evaluate.judge.canaries import judge_trust as judge_trust
from orpo.evaluate.judge.canaries import plant_canaries as plant_canaries
from orpo.evaluate.judge.pairwise import Comparison as Comparison
from orpo.evaluate.judge.pairwise import compare_pairs as compare_pairs
from orpo.evaluate.judge.replies import Request as Request
from orpo.evaluate.judge.replies import complete as complete
from orpo.evaluate.judge.suspicious import suspicions as suspicions
from orpo.evaluate.settings import JudgeSettings as JudgeSettings
